"""The Triton kernels of SparseLoRA. What they compute is written in plain torch in `sparse_lora_torch`.

Both are bound by memory: `effective_weight` reads W and the bit mask once and writes the result once,
`masked_reduction` reads G and the bit mask once and writes partial sums of a few percent of G's size.
Nothing is accumulated with atomics, so results are the same bit for bit from run to run.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Ranks go through the tensor cores this many at a time, the least they take. The reduction re-reads G for
# each such slice, which keeps its registers and its partial sums small at any rank.
_RANK_SLICE = 16


@triton.jit
def _effective_weight_kernel(
    weight,
    mask,
    lora_a,
    lora_b,
    out,
    scaling,
    rows,
    columns,
    mask_columns,
    RANK: tl.constexpr,
    RANK_SLICE: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_BYTES: tl.constexpr,
):
    # Tiles are (rows, bytes of the mask, 8 bits): a thread holds the 8 columns of one byte of the mask, so
    # unpacking needs no traffic between threads and a bf16 weight is loaded 16 bytes at a time.
    BLOCK_COLUMNS: tl.constexpr = BLOCK_BYTES * 8
    row = tl.program_id(1) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    byte = tl.program_id(0) * BLOCK_BYTES + tl.arange(0, BLOCK_BYTES)
    bit = tl.arange(0, 8)
    column = byte[:, None] * 8 + bit[None, :]
    flat = tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    row_inside = row < rows
    inside = row_inside[:, None, None] & (column < columns)[None, :, :]
    long_row = row.to(tl.int64)
    offset = (long_row * columns)[:, None, None] + column[None, :, :]

    value = tl.load(weight + offset, mask=inside, other=0.0).to(tl.float32)
    packed = tl.load(
        mask + (long_row * mask_columns)[:, None] + byte[None, :],
        mask=row_inside[:, None] & (byte < mask_columns)[None, :],
        other=0,
    )
    product = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    for first_rank in range(0, RANK, RANK_SLICE):
        rank = first_rank + tl.arange(0, RANK_SLICE)
        a = tl.load(
            lora_a + rank[:, None] * columns + flat[None, :],
            mask=(rank < RANK)[:, None] & (flat < columns)[None, :],
            other=0.0,
        ).to(OPERAND)
        b = tl.load(
            lora_b + (long_row * RANK)[:, None] + rank[None, :],
            mask=row_inside[:, None] & (rank < RANK)[None, :],
            other=0.0,
        ).to(OPERAND)
        product = tl.dot(b, a, product, input_precision=PRECISION)
    product = tl.reshape(product, (BLOCK_ROWS, BLOCK_BYTES, 8))
    keep = (packed[:, :, None] >> bit[None, None, :]) & 1
    value = tl.where(keep != 0, value + scaling * product, 0.0)
    tl.store(out + offset, value.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rank_stride", "first_rank", "rows_per_program"])
def _masked_reduction_kernel(
    gradient,
    mask,
    lora_a,
    lora_b,
    parts_a,
    parts_b,
    rows,
    columns,
    mask_columns,
    rank_stride,
    first_rank,
    rows_per_program,
    RANK: tl.constexpr,
    RANK_PADDED: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_BYTES: tl.constexpr,
):
    # One program owns rows_per_program × (8·BLOCK_BYTES) elements of G and walks down the rows. For each step
    # its share of dB is complete (over its columns) and written; its share of dA is complete at the end.
    BLOCK_COLUMNS: tl.constexpr = BLOCK_BYTES * 8
    column_part = tl.program_id(0)
    row_part = tl.program_id(1)
    rank = tl.arange(0, RANK_PADDED)
    rank_inside = rank < RANK
    byte = column_part * BLOCK_BYTES + tl.arange(0, BLOCK_BYTES)
    bit = tl.arange(0, 8)
    column = byte[:, None] * 8 + bit[None, :]
    flat = column_part * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    flat_inside = flat < columns

    a = tl.load(
        lora_a + (first_rank + rank)[None, :] * columns + flat[:, None],
        mask=rank_inside[None, :] & flat_inside[:, None],
        other=0.0,
    ).to(OPERAND)
    sum_a = tl.zeros((RANK_PADDED, BLOCK_COLUMNS), tl.float32)
    first_row = row_part * rows_per_program
    for step in range(0, tl.minimum(rows_per_program, rows - first_row), BLOCK_ROWS):
        row = first_row + step + tl.arange(0, BLOCK_ROWS)
        row_inside = row < rows
        long_row = row.to(tl.int64)
        value = tl.load(
            gradient + (long_row * columns)[:, None, None] + column[None, :, :],
            mask=row_inside[:, None, None] & (column < columns)[None, :, :],
            other=0.0,
        )
        packed = tl.load(
            mask + (long_row * mask_columns)[:, None] + byte[None, :],
            mask=row_inside[:, None] & (byte < mask_columns)[None, :],
            other=0,
        )
        keep = (packed[:, :, None] >> bit[None, None, :]) & 1
        value = tl.where(keep != 0, value, 0.0).to(OPERAND)
        value = tl.reshape(value, (BLOCK_ROWS, BLOCK_COLUMNS))
        b = tl.load(
            lora_b + (long_row * rank_stride)[None, :] + (first_rank + rank)[:, None],
            mask=row_inside[None, :] & rank_inside[:, None],
            other=0.0,
        ).to(OPERAND)
        sum_b = tl.dot(value, a, input_precision=PRECISION)
        tl.store(
            parts_b + ((column_part * rows + long_row) * RANK)[:, None] + rank[None, :],
            sum_b,
            mask=row_inside[:, None] & rank_inside[None, :],
        )
        sum_a = tl.dot(b, value, sum_a, input_precision=PRECISION)
    tl.store(
        parts_a + (row_part * RANK + rank).to(tl.int64)[:, None] * columns + flat[None, :],
        sum_a,
        mask=rank_inside[:, None] & flat_inside[None, :],
    )


@triton.jit
def _sum_parts(parts, number, size, offset, BLOCK_PARTS: tl.constexpr, BLOCK: tl.constexpr):
    """Sum over the first axis of parts (number, size) at `offset` (BLOCK,), in a fixed order."""
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, number, BLOCK_PARTS):
        part = first + tl.arange(0, BLOCK_PARTS)
        value = tl.load(
            parts + part.to(tl.int64)[:, None] * size + offset[None, :],
            mask=(part < number)[:, None] & (offset < size)[None, :],
            other=0.0,
        )
        total += tl.sum(value, axis=0)
    return total


@triton.jit(do_not_specialize=["number_a", "number_b", "rank_stride", "first_rank", "programs_a"])
def _finish_kernel(
    parts_a,
    parts_b,
    grad_a,
    grad_b,
    scaling,
    number_a,
    number_b,
    rows,
    columns,
    rank_stride,
    first_rank,
    programs_a,
    RANK: tl.constexpr,
    BLOCK_PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    if program < programs_a:
        offset = program * BLOCK + tl.arange(0, BLOCK)
        size = columns * RANK
        total = scaling * _sum_parts(parts_a, number_a, size, offset, BLOCK_PARTS, BLOCK)
        tl.store(
            grad_a + first_rank * columns + offset, total.to(grad_a.dtype.element_ty), mask=offset < size
        )
    else:
        offset = (program - programs_a) * BLOCK + tl.arange(0, BLOCK)
        size = rows * RANK
        total = scaling * _sum_parts(parts_b, number_b, size, offset, BLOCK_PARTS, BLOCK)
        where = (offset // RANK) * rank_stride + first_rank + offset % RANK
        tl.store(grad_b + where, total.to(grad_b.dtype.element_ty), mask=offset < size)


def _on_device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device; a model may be spread over several."""
    if tensor.is_cuda and tensor.device.index != torch.cuda.current_device():
        return torch.cuda.device(tensor.device)
    return nullcontext()


def _dot_mode(values: torch.dtype, factors: torch.dtype) -> tuple[tl.dtype, str]:
    """The operand type and precision of a product of `values` (W' or G) and `factors` (A and B).

    Two 16-bit operands multiply exactly as they are. fp32 factors beside 16-bit values go through tf32, whose
    10 bits of mantissa are finer than the values'; beside fp32 values they stay fp32.
    """
    if values == torch.float32:
        return tl.float32, "ieee"
    # Triton's interpreter multiplies the bit patterns of bf16 as if they were integers: give it fp32.
    if factors == values and not triton.knobs.runtime.interpret:
        return {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}[values], "ieee"
    return tl.float32, "tf32"


def effective_weight(
    weight: Tensor,
    packed_mask: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    scaling: float,
    out: Tensor,
    *,
    block_rows: int = 64,
    block_bytes: int = 16,
    num_warps: int = 8,
) -> Tensor:
    """out = W⊙M + s·(BA)⊙M, (out, in), summed in fp32 and rounded once to the dtype of `out`."""
    rows, columns = weight.shape
    operand, precision = _dot_mode(out.dtype, lora_a.dtype)
    grid = (triton.cdiv(packed_mask.shape[1], block_bytes), triton.cdiv(rows, block_rows))
    with _on_device_of(weight):
        _effective_weight_kernel[grid](
            weight.contiguous(),
            packed_mask.contiguous(),
            lora_a.contiguous(),
            lora_b.contiguous(),
            out,
            scaling,
            rows,
            columns,
            packed_mask.shape[1],
            RANK=lora_a.shape[0],
            RANK_SLICE=_RANK_SLICE,
            OPERAND=operand,
            PRECISION=precision,
            BLOCK_ROWS=block_rows,
            BLOCK_BYTES=block_bytes,
            num_warps=num_warps,
        )
    return out


def masked_reduction(
    gradient: Tensor,
    packed_mask: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    scaling: float,
    *,
    block_rows: int = 16,
    block_bytes: int = 32,
    rows_per_program: int | None = None,
    num_warps: int = 4,
    num_stages: int = 4,
) -> tuple[Tensor, Tensor]:
    """dA = s·Bᵀ(G⊙M) (r, in) and dB = s·(G⊙M)Aᵀ (out, r), in the dtypes of A and B, from G (out, in).

    G is read once for every 16 ranks and not changed. Extra memory: fp32 partial sums of
    4·min(r, 16)·(in·⌈out/rows_per_program⌉ + out·⌈in/(8·block_bytes)⌉) bytes.
    """
    rows, columns = gradient.shape
    if rows_per_program is None:  # in a small layer many programs count, in a large one little memory
        rows_per_program = 1024 if gradient.numel() >= 2**23 else 128
    rank, mask_columns = lora_a.shape[0], packed_mask.shape[1]
    lora_a, lora_b = lora_a.contiguous(), lora_b.contiguous()
    grad_a, grad_b = torch.empty_like(lora_a), torch.empty_like(lora_b)
    number_a, number_b = triton.cdiv(rows, rows_per_program), triton.cdiv(mask_columns, block_bytes)
    width = min(rank, _RANK_SLICE)
    size_a, size_b = number_a * width * columns, number_b * rows * width
    parts = torch.empty(size_a + size_b, dtype=torch.float32, device=gradient.device)
    operand, precision = _dot_mode(gradient.dtype, lora_a.dtype)
    block = 128
    with _on_device_of(gradient):
        for first_rank in range(0, rank, _RANK_SLICE):
            ranks = min(_RANK_SLICE, rank - first_rank)
            _masked_reduction_kernel[(number_b, number_a)](
                gradient,
                packed_mask.contiguous(),
                lora_a,
                lora_b,
                parts,
                parts[size_a:],
                rows,
                columns,
                mask_columns,
                rank,
                first_rank,
                rows_per_program,
                RANK=ranks,
                RANK_PADDED=_RANK_SLICE,
                OPERAND=operand,
                PRECISION=precision,
                BLOCK_ROWS=block_rows,
                BLOCK_BYTES=block_bytes,
                num_warps=num_warps,
                num_stages=num_stages,
            )
            programs_a = triton.cdiv(ranks * columns, block)
            _finish_kernel[(programs_a + triton.cdiv(ranks * rows, block),)](
                parts,
                parts[size_a:],
                grad_a,
                grad_b,
                scaling,
                number_a,
                number_b,
                rows,
                columns,
                rank,
                first_rank,
                programs_a,
                RANK=ranks,
                BLOCK_PARTS=32,
                BLOCK=block,
                num_warps=4,
            )
    return grad_a, grad_b
