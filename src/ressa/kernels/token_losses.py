"""Sums of losses over a vocabulary with their gradients, where Triton's kernels can make them."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ressa.kernels.has_triton import HAS_TRITON

if TYPE_CHECKING:
    from types import ModuleType

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def fuses(logits: Tensor) -> bool:
    """Whether the kernels can read these logits (rows, vocabulary)."""
    return HAS_TRITON and logits.is_cuda and logits.dtype in _DTYPES and logits.numel() > 0


def fused() -> "ModuleType":
    """The kernels, imported when first needed: `cross_entropy` and `divergence`."""
    from ressa.kernels import token_losses_triton

    return token_losses_triton
