"""What zeros may look like: patterns, the masks that satisfy them, and plans that give each layer one."""

from typing import TYPE_CHECKING

from ressa.doors import door

if TYPE_CHECKING:
    from ressa.sparsity.mask import (
        PackedMasks,
        as_packed,
        count_packed,
        count_zeros,
        pack_mask,
        pack_nonzero,
        unpack_mask,
    )
    from ressa.sparsity.pattern import NM, Pattern, Scope, Unstructured, parse_pattern
    from ressa.sparsity.plan import Plan, global_plan
    from ressa.sparsity.select import select_global
else:
    __getattr__, __dir__ = door(
        __name__,
        mask="PackedMasks as_packed count_packed count_zeros pack_mask pack_nonzero unpack_mask",
        pattern="NM Pattern Scope Unstructured parse_pattern",
        plan="Plan global_plan",
        select="select_global",
    )

__all__ = [
    "NM",
    "PackedMasks",
    "Pattern",
    "Plan",
    "Scope",
    "Unstructured",
    "as_packed",
    "count_packed",
    "count_zeros",
    "global_plan",
    "pack_mask",
    "pack_nonzero",
    "parse_pattern",
    "select_global",
    "unpack_mask",
]
