"""Weights, masks and inputs on which the runtime's kernels are tried."""

import torch
from torch import Tensor

from ressa.runtime.packing import PackedWeight, pack

# (out, in): those of real layers cut down; then none a multiple of anything the kernels work in.
SHAPES = [
    (64, 128),
    (256, 512),
    (384, 2048),
    (33, 68),
    (100, 4),
    (1, 64),
    (130, 1000),
    (257, 1196),
    (96, 11008),
]


def mask_24(rows: int, columns: int) -> Tensor:
    return torch.rand(rows, columns // 4, 4).argsort(2).lt(2).reshape(rows, columns)


def mask_any(rows: int, columns: int, sparsity: float) -> Tensor:
    return torch.rand(rows, columns) >= sparsity


def packed(mask: Tensor, dtype: torch.dtype, device: str = "cpu") -> PackedWeight:
    """Random values where the mask keeps; one of them is −0.0."""
    weight = torch.randn(mask.shape).to(dtype) * 0.05
    kept = mask.nonzero()
    if len(kept):
        weight[tuple(kept[len(kept) // 2])] = -0.0
    return pack(weight.masked_fill_(~mask, 0.0).to(device), mask.to(device))
