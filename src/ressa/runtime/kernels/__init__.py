"""Kernels that compute with packed weights; a device, dtype or shape that none of them takes runs dense."""

from ressa.runtime.packing import PackedWeight
from ressa.runtime.prepared import PreparedWeight


def prepare(packed: PackedWeight) -> PreparedWeight | None:
    """The weight in the order of the fastest kernel that takes it on its device; None where none does."""
    return None
