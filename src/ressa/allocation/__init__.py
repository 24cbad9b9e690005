"""Allocation: how much sparsity each layer gets; every strategy makes a `Plan`."""

from ressa.allocation.uniform import per_tower

__all__ = ["per_tower"]
