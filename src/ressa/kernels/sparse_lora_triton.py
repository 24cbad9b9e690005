"""SparseLoRA's passes over a weight on a GPU: what they compute is written in plain torch in `sparse_lora_torch`.

The programs are in `triton_programs`; here are their sizes and how they are launched.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ressa.kernels import triton_programs

# Ranks go through the tensor cores at most this many at a time. The reduction re-reads G for each such slice,
# which keeps its registers and its partial sums small at any rank.
RANK_SLICE = 16


class _Launcher:
    """kernel[grid](*tensors, *numbers), with Triton's look at every argument at the first call only.

    That look takes as long as a small layer's kernels, and so does the driver's at every pointer, which a plain
    number is spared. One launcher is for one layer shape, its types and its device, so that nothing but
    alignment may differ from call to call. `numbers` end with the constants.
    """

    def __init__(
        self, kernel: Any, grid: tuple[int, int, int], numbers: tuple[Any, ...], num_warps: int
    ) -> None:
        self.kernel, self.grid, self.numbers, self.num_warps = kernel, grid, numbers, num_warps
        self.compiled: Callable[..., None] | None = None

    def __call__(self, *tensors: Tensor) -> None:
        device = tensors[0].get_device()  # -1: the CPU
        if device < 0 or device == torch.cuda.current_device():
            self._launch(tensors)
        else:  # Triton launches on the current device; a model may be spread over several
            with torch.cuda.device(device):
                self._launch(tensors)

    def _launch(self, tensors: tuple[Tensor, ...]) -> None:
        pointers = [tensor.data_ptr() for tensor in tensors]
        aligned = not any(pointer % 16 for pointer in pointers)
        if self.compiled is not None and aligned:
            self.compiled(*pointers, *self.numbers)
            return
        found = self.kernel[self.grid](*tensors, *self.numbers, num_warps=self.num_warps)
        if aligned and not triton.knobs.runtime.interpret:
            self.compiled = found[self.grid]


@cache
def dot_mode(values: torch.dtype, factors: torch.dtype) -> tuple[tl.dtype, tl.dtype, bool, str]:
    """OPERAND, HALF, SPLIT, PRECISION of a product of `values` (W' or G) and `factors` (A and B).

    Two 16-bit operands multiply exactly as they are. fp32 factors beside bf16 values are split into two bf16
    numbers, which keeps 16 of their bits; beside fp16 ones, whose range is too small for that, they go through
    tf32, whose 10 bits are as fine as the values'. Beside fp32 values they stay fp32.
    """
    if values == torch.float32:
        return tl.float32, tl.float32, False, "ieee"
    # Triton's interpreter multiplies the bit patterns of bf16 as if they were integers: give it fp32.
    interpreted = triton.knobs.runtime.interpret
    operand = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}[values]
    if factors == values:
        operand = tl.float32 if interpreted else operand
        return operand, operand, False, "ieee"
    if values == torch.bfloat16:
        return tl.float32 if interpreted else operand, operand, True, "ieee"
    return tl.float32, tl.float32, False, "tf32"


def _tiles(
    shape: tuple[int, int],
    rank: int,
    types: tuple[torch.dtype, torch.dtype],
    block_rows: int,
    block_columns: int,
    num_warps: int,
) -> tuple[int, tuple[Any, ...]]:
    """How many tiles W' has, and the constants of what writes one. types: of W', of A and B."""
    rows, columns = shape
    if types[0] == torch.float32:
        block_columns = max(32, block_columns // 2)
    tiles = -(-columns // block_columns) * -(-rows // block_rows)
    return tiles, (rank, RANK_SLICE, *dot_mode(*types), block_rows, block_columns // 32, num_warps)


@cache
def _effective_weight_launcher(
    shape: tuple[int, int],
    rank: int,
    types: tuple[torch.dtype, ...],
    device: torch.device,
    scaling: float,
    block_rows: int,
    block_columns: int,
    num_warps: int,
) -> _Launcher:
    """types: of W', of A and B, of W."""
    rows, columns = shape
    tiles, constants = _tiles(shape, rank, (types[0], types[1]), block_rows, block_columns, num_warps)
    numbers = (float(scaling), rows, columns, (columns + 7) // 8)
    return _Launcher(triton_programs.effective_weight_kernel, (tiles, 1, 1), numbers + constants, num_warps)


def effective_weight(
    weight: Tensor,
    packed_mask: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    scaling: float,
    out: Tensor,
    *,
    block_rows: int = 64,
    block_columns: int = 64,
    num_warps: int = 4,
) -> Tensor:
    """out = W⊙M + s·(BA)⊙M, (out, in), summed in fp32 and rounded once to the dtype of `out`.

    block_rows: a multiple of 16·num_warps; block_columns: of 32, halved for fp32, which needs the registers.
    """
    types = (out.dtype, lora_a.dtype, weight.dtype)
    launch = _effective_weight_launcher(
        weight.shape, lora_a.shape[0], types, weight.device, scaling, block_rows, block_columns, num_warps
    )
    launch(weight.contiguous(), packed_mask.contiguous(), lora_a.contiguous(), lora_b.contiguous(), out)
    return out


def masked(weight: Tensor, packed_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """W⊙M (out, in), rounded to `dtype`: W' of no ranks."""
    rows, columns = weight.shape
    none = weight.new_empty(0, dtype=torch.promote_types(dtype, weight.dtype))
    out = weight.new_empty(weight.shape, dtype=dtype)
    return effective_weight(weight, packed_mask, none.view(0, columns), none.view(rows, 0), 1.0, out)


@cache
def _reduction_launchers(
    shape: tuple[int, int],
    rank: int,
    types: tuple[torch.dtype, ...],
    device: torch.device,
    scaling: float,
    block_rows: int,
    block_columns: int,
    rank_tile: int,
    programs_each: int,
    num_warps: int,
    weight_block: tuple[int, int],
) -> tuple[int, list[tuple[_Launcher, _Launcher]]]:
    """How many partial sums; for each slice of ranks the launchers that make and add them.

    types: of G, of A and B, and of W where W' is asked for: the last launcher writes it beside its sums.
    """
    rows, columns = shape
    if types[0] == torch.float32:
        block_columns = max(32, block_columns // 2)
    multiprocessors = (
        torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
    )
    column_parts = -(-columns // block_columns)
    row_parts = max(1, programs_each * multiprocessors // column_parts)
    rows_per_program = -(-rows // (row_parts * block_rows)) * block_rows
    row_parts = -(-rows // rows_per_program)
    size_a = row_parts * min(rank, RANK_SLICE) * columns
    size_b = column_parts * min(rank, RANK_SLICE) * rows
    mode = dot_mode(types[0], types[1])
    block, warps = 128, 4
    launchers = []
    for first_rank in range(0, rank, RANK_SLICE):
        ranks = min(RANK_SLICE, rank - first_rank)
        tile = rank_tile if ranks <= rank_tile else RANK_SLICE
        numbers = (size_a, rows, columns, (columns + 7) // 8, first_rank, rows_per_program)
        constants = (rank, ranks, tile, *mode, block_rows, block_columns // 32, num_warps)
        grid = (column_parts, row_parts, 1)
        reduce = _Launcher(triton_programs.masked_reduction_kernel, grid, numbers + constants, num_warps)
        programs_a, programs_b = -(-ranks * columns // block), -(-ranks * rows // block)
        added = (float(scaling), size_a, row_parts, column_parts, rows, columns, rank, first_rank, programs_a)
        sums, programs = (ranks, 32, block), programs_a + programs_b
        if len(types) == 3 and first_rank + ranks == rank:
            tiles, written = _tiles(shape, rank, (types[0], types[1]), *weight_block, warps)
            beside = (*added, programs, (columns + 7) // 8, *sums, *written)
            kernel, grid = triton_programs.finish_and_weight_kernel, (programs + tiles, 1, 1)
            finish = _Launcher(kernel, grid, beside, warps)
        else:
            finish = _Launcher(triton_programs.finish_kernel, (programs, 1, 1), added + sums, warps)
        launchers.append((reduce, finish))
    return size_a + size_b, launchers


def masked_reduction(
    gradient: Tensor,
    packed_mask: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    scaling: float,
    weight: Tensor | None = None,
    *,
    block_rows: int = 64,
    block_columns: int = 128,
    rank_tile: int = 8,
    programs: int = 2,
    num_warps: int = 4,
    weight_block: tuple[int, int] = (64, 64),
) -> tuple[Tensor, Tensor]:
    """dA = s·Bᵀ(G⊙M) (r, in) and dB = s·(G⊙M)Aᵀ (out, r), in the dtypes of A and B, from G (out, in).

    G is read once for every 16 ranks and not changed, but where the weight is given: then W' takes its place, as
    `effective_weight` writes it. programs: how many a multiprocessor, about; the rows are cut into so many
    parts. Blocks (`weight_block`: rows and columns of W') as in `effective_weight`. Extra memory: fp32 partial
    sums of 4·min(r, 16)·(in·row parts + out·⌈in/block_columns⌉) bytes.
    """
    types = (gradient.dtype, lora_a.dtype, *(() if weight is None else (weight.dtype,)))
    size, launchers = _reduction_launchers(
        gradient.shape,
        lora_a.shape[0],
        types,
        gradient.device,
        scaling,
        block_rows,
        block_columns,
        rank_tile,
        programs,
        num_warps,
        weight_block,
    )
    packed_mask, lora_a, lora_b = packed_mask.contiguous(), lora_a.contiguous(), lora_b.contiguous()
    grad_a, grad_b = torch.empty_like(lora_a), torch.empty_like(lora_b)
    parts = gradient.new_empty(size, dtype=torch.float32)
    for number, (reduce, finish) in enumerate(launchers, 1):
        reduce(gradient, packed_mask, lora_a, lora_b, parts)
        if weight is not None and number == len(launchers):
            finish(parts, grad_a, grad_b, weight.contiguous(), packed_mask, lora_a, lora_b, gradient)
        else:
            finish(parts, grad_a, grad_b)
    if weight is not None and not launchers:  # no ranks, no sums
        effective_weight(weight, packed_mask, lora_a, lora_b, scaling, gradient)
    return grad_a, grad_b
