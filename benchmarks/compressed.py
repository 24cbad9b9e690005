"""Experimental: W' of a 2:4 mask written straight into the compressed form of the sparse tensor cores.

cuSPARSELt's compressed form of (out, in) is the kept values row by row, in/2 each, then metadata that says where
in its group of four each lies. The mask is fixed while a model is tuned, so the metadata (1/16 of a bf16 weight)
is computed once; a step writes only the values, half of W', and the product needs no compression before it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ressa.kernels import sparse_lora_triton as kernels
from ressa.kernels import triton_programs as programs


@triton.jit(do_not_specialize=["mask_columns"])
def _kept_values_kernel(
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
    HALF: tl.constexpr,
    SPLIT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    CHUNKS: tl.constexpr,
    WARPS: tl.constexpr,
):
    first_row, first_column = tl.program_id(1) * BLOCK_ROWS, tl.program_id(0) * CHUNKS * 32
    value, packed = programs.effective_tile(
        weight, mask, lora_a, lora_b, scaling, rows, columns, mask_columns, first_row, first_column,
        RANK, RANK_SLICE, OPERAND, HALF, SPLIT, PRECISION, BLOCK_ROWS, CHUNKS, WARPS,
    )  # fmt: skip
    # Of each four, half a byte of the mask, two are kept: one with no kept one before it, one with.
    LINES: tl.constexpr = CHUNKS * BLOCK_ROWS
    four = (packed.to(tl.int32)[:, :, None] >> (tl.arange(0, 2) * 4)) & 15
    four = tl.reshape(four, (LINES, 8))[:, :, None]
    bit = 1 << tl.arange(0, 4)
    kept, later = (four & bit) != 0, (four & (bit - 1)) != 0
    value = tl.reshape(value, (LINES, 8, 4))
    first_kept = tl.sum(tl.where(kept & ~later, value, 0.0), axis=2)
    second_kept = tl.sum(tl.where(kept & later, value, 0.0), axis=2)
    row, first = programs.tile_place(first_row, first_column, BLOCK_ROWS, CHUNKS)
    place = first // 2 + tl.arange(0, 16)[None, :]
    tl.store(
        out + row.to(tl.int64) * (columns // 2) + place,
        tl.reshape(tl.join(first_kept, second_kept), (LINES, 16)).to(out.dtype.element_ty),
        mask=(row < rows) & (place < columns // 2),
    )


def kept_values(
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
    """The kept values of W' row by row into out (out·in/2,); the mask keeps just two of each four of a row."""
    rows, columns = weight.shape
    grid = (-(-columns // block_columns), -(-rows // block_rows))
    _kept_values_kernel[grid](
        weight,
        packed_mask,
        lora_a,
        lora_b,
        out,
        scaling,
        rows,
        columns,
        packed_mask.shape[1],
        lora_a.shape[0],
        kernels.RANK_SLICE,
        *kernels.dot_mode(out.dtype, lora_a.dtype),
        block_rows,
        block_columns // 32,
        num_warps,
        num_warps=num_warps,
    )
    return out


def compressed_form(mask: Tensor) -> Tensor | None:
    """What cuSPARSELt makes of a weight with this 2:4 mask (out, in): the mask's metadata, behind room for values.

    None where the compressed form is not as described above.
    """
    probe = torch.rand(mask.shape, device=mask.device).add_(1).mul_(mask).bfloat16()
    compressed = torch._cslt_compress(probe)
    half = mask.numel() // 2
    return compressed if torch.equal(compressed.flatten()[:half], probe[mask]) else None


def compressed_weight(
    weight: Tensor, packed_mask: Tensor, lora_a: Tensor, lora_b: Tensor, scaling: float, form: Tensor
) -> Tensor:
    """W' compressed, 9/16 of the bytes of W': `form` (`compressed_form`) with its values written into it."""
    half = weight.numel() // 2
    kept_values(weight, packed_mask, lora_a, lora_b, scaling, form.view(-1)[:half])
    return form
