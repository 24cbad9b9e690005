"""SparseGPT's sweep over one block of columns: what goes, and what the columns to the right make up for.

    for each column j, from left to right
        e_j = w_j / U_jj where w_j goes, 0 where it stays
        w_k −= U_jk · e_j for all k ≥ j

A weight that goes ends as 0, but for rounding. Here is the sweep in plain torch, one launch after the other;
`column_sweep_triton` makes one kernel of it.
"""

import importlib

import torch
from torch import Tensor

from ressa.kernels.has_triton import HAS_TRITON

_WIDEST = 256  # columns of a block that the kernel can hold in registers


def sweep(
    W: Tensor, U: Tensor, scale: Tensor, kept: Tensor, errors: Tensor, *, n: int = 0, m: int = 1
) -> None:
    """Sweep one block of columns, in place.

    W: fp32 (columns, out), the block's weights, transposed. U: fp32 (columns, columns), upper triangular. kept:
    bool (columns, out), what stays. n, m: if n is not 0, `kept` is at first what may stay, and of that is chosen
    here, group by group as the sweep reaches it, the n highest |w|·scale of every m columns, of equal ones the earlier.
    scale: fp32 (columns,). errors: fp32 (columns, out), receives e. Rows of W, kept and errors lie in one piece.
    """
    if HAS_TRITON and W.is_cuda and len(W) <= _WIDEST:
        kernels = importlib.import_module("ressa.kernels.column_sweep_triton")
        kernels.sweep(W, U, scale, kept, errors, n, m)
    else:
        sweep_torch(W, U, scale, kept, errors, n, m)


def sweep_torch(
    W: Tensor, U: Tensor, scale: Tensor, kept: Tensor, errors: Tensor, n: int = 0, m: int = 1
) -> None:
    """`sweep`, as it is written above."""
    for j in range(len(W)):
        if n and j % m == 0:
            group = slice(j, j + m)
            scores = W[group].abs() * scale[group].unsqueeze(1)
            kept[group] &= select_group(scores.masked_fill(~kept[group], -1), n)
        error = W[j].masked_fill(kept[j], 0) / U[j, j]
        W[j:].addr_(U[j, j:], error, alpha=-1)
        errors[j] = error


def select_group(scores: Tensor, n: int) -> Tensor:
    """`NM.select` for one group, scores (m, out) → bool (m, out), in few launches: a sweep has thousands."""
    best = scores.argsort(dim=0, descending=True, stable=True)[:n]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(0, best, True)
