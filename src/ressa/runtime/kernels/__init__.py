"""Kernels that compute with packed weights; a device, dtype or shape that none of them takes runs dense."""

import torch

from ressa.runtime.kernels import nvrtc
from ressa.runtime.packing import PackedWeight
from ressa.runtime.prepared import PreparedWeight

_DTYPES = (torch.bfloat16, torch.float16)
_CAPABILITIES = ((8, 0), (8, 6), (8, 7), (8, 9), (9, 0))
# At little sparsity, and with masks that give some lanes much more than others, the rest is as long as W itself.
_WORTHWHILE = 0.9


def prepare(packed: PackedWeight) -> PreparedWeight | None:
    """The weight in the order of the fastest kernel that takes it on its device; None where none does."""
    if not supported(packed.device, packed.dtype) or not all(packed.shape):
        return None
    from ressa.runtime.kernels.sparse24 import (  # registers operators: only where they run
        Blocks24,
        SplitBlocks,
    )

    if packed.form == "2:4":
        return Blocks24.of(packed)
    weight = SplitBlocks.of(packed)
    dense = packed.shape[0] * packed.shape[1] * packed.values.element_size()
    return weight if weight.nbytes < _WORTHWHILE * dense else None


def supported(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether there are kernels for this device and dtype: fp16 and bf16 on NVIDIA GPUs of sm_80, 86, 87, 89 and 90."""
    return (
        device.type == "cuda"
        and torch.version.hip is None
        and dtype in _DTYPES
        and torch.cuda.get_device_capability(device) in _CAPABILITIES
        and nvrtc.available()
    )
