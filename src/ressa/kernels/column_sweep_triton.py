"""`column_sweep` in one kernel: each program takes some rows of the weight and keeps their block in registers."""

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS = 4  # of the weight, a program: columns go one after the other, so only rows are there to fill a GPU
_WARPS = 1  # then sums over columns stay within a warp


def sweep(W: Tensor, U: Tensor, scale: Tensor, kept: Tensor, errors: Tensor, n: int, m: int) -> None:
    """See `column_sweep.sweep`."""
    columns, rows = W.shape
    groups = triton.cdiv(columns, m)
    assert W.stride() == kept.stride() == errors.stride() == (rows, 1), "rows must lie in one piece"
    sweep_kernel[(triton.cdiv(rows, _ROWS),)](
        W,
        U,
        scale,
        kept.view(torch.uint8),
        errors,
        rows,
        *U.stride(),
        COLUMNS=columns,
        N=n,
        M=m,
        GROUPS=triton.next_power_of_2(groups),
        MEMBERS=triton.next_power_of_2(m),
        ROWS=_ROWS,
        num_warps=_WARPS,
    )


@triton.jit
def sweep_kernel(
    weight,
    factor,
    scale,
    kept,
    errors,
    rows,
    factor_row,
    factor_column,
    COLUMNS: tl.constexpr,
    N: tl.constexpr,
    M: tl.constexpr,
    GROUPS: tl.constexpr,
    MEMBERS: tl.constexpr,
    ROWS: tl.constexpr,
):
    # A tile is (GROUPS, MEMBERS, ROWS): column g·M + member. Both counts are rounded up to powers of two.
    group = tl.arange(0, GROUPS)[:, None, None]
    member = tl.arange(0, MEMBERS)[None, :, None]
    column = group * M + member
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    is_column = (member < M) & (column < COLUMNS)
    inside = is_column & (row[None, None, :] < rows)
    place = column * rows + row[None, None, :]
    w = tl.load(weight + place, mask=inside, other=0.0)
    stays = tl.load(kept + place, mask=inside, other=1).to(tl.int32)
    if N != 0:
        scales = tl.load(scale + column, mask=is_column, other=0.0)
        rival = tl.arange(0, MEMBERS)[None, :, None]
        candidate = tl.arange(0, MEMBERS)[:, None, None]
    for g in range(0, (COLUMNS + M - 1) // M):
        if N != 0:
            scores = tl.where(stays != 0, tl.abs(w) * scales, -1.0)
            scores = tl.sum(tl.where(group == g, scores, 0.0), axis=0)
            mine = scores[:, None, :]
            theirs = scores[None, :, :]
            loses = (theirs > mine) | ((theirs == mine) & (rival < candidate))
            lost = tl.sum((loses & (rival < M)).to(tl.int32), axis=1)
            stays = tl.where(group == g, stays & (lost < N).to(tl.int32)[None, :, :], stays)
        for k in range(0, M):
            j = g * M + k
            here = (group == g) & (member == k)
            w_j = tl.sum(tl.sum(tl.where(here, w, 0.0), axis=0), axis=0)
            stays_j = tl.sum(tl.sum(tl.where(here, stays, 0), axis=0), axis=0)
            u = tl.load(
                factor + j * factor_row + column * factor_column, mask=is_column & (column >= j), other=0.0
            )
            diagonal = tl.load(factor + j * (factor_row + factor_column))
            error = tl.where(stays_j != 0, 0.0, tl.div_rn(w_j, diagonal))
            w -= u * error[None, None, :]
            tl.store(errors + j * rows + row, error, mask=row < rows)
    tl.store(weight + place, w, mask=inside)
    if N != 0:
        tl.store(kept + place, stays.to(tl.int8), mask=inside)
