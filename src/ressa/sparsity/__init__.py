"""What zeros may look like: patterns, the masks that satisfy them, and plans that give each layer one."""

from typing import TYPE_CHECKING

from ressa.doors import door

if TYPE_CHECKING:
    from ressa.sparsity.mask import pack_mask, unpack_mask
    from ressa.sparsity.pattern import NM, Pattern, Scope, Unstructured, parse_pattern
    from ressa.sparsity.plan import Plan, global_plan
    from ressa.sparsity.select import select_global
else:
    __getattr__, __dir__ = door(
        __name__,
        mask="pack_mask unpack_mask",
        pattern="NM Pattern Scope Unstructured parse_pattern",
        plan="Plan global_plan",
        select="select_global",
    )

__all__ = [
    "NM",
    "Pattern",
    "Plan",
    "Scope",
    "Unstructured",
    "global_plan",
    "pack_mask",
    "parse_pattern",
    "select_global",
    "unpack_mask",
]
