"""Allocation: how much sparsity each layer gets; every strategy makes a `Plan`."""

from typing import TYPE_CHECKING

from ressa.doors import door

if TYPE_CHECKING:
    from ressa.allocation.allocation import Allocation
    from ressa.allocation.plan_file import read_plan, write_plan
    from ressa.allocation.strategies import ALLOCATIONS, allocate, batching
    from ressa.allocation.uniform import make_plan, per_tower
else:
    __getattr__, __dir__ = door(
        __name__,
        allocation="Allocation",
        plan_file="read_plan write_plan",
        strategies="ALLOCATIONS allocate batching",
        uniform="make_plan per_tower",
    )

__all__ = [
    "ALLOCATIONS",
    "Allocation",
    "allocate",
    "batching",
    "make_plan",
    "per_tower",
    "read_plan",
    "write_plan",
]
