"""What zeros may look like: patterns, the masks that satisfy them, and plans that give each layer one."""

from ressa.sparsity.mask import pack_mask, unpack_mask
from ressa.sparsity.pattern import NM, Pattern, Scope, Unstructured, parse_pattern
from ressa.sparsity.plan import Plan, global_plan
from ressa.sparsity.select import select_global

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
