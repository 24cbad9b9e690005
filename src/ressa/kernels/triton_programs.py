"""The Triton programs of SparseLoRA; `sparse_lora_triton` launches them.

Both passes over a weight are bound by memory: W' reads W and the bit mask once and is written once, the reduction
reads G and the bit mask once and writes partial sums of some percent of G's size. Nothing is accumulated with
atomics, so results are the same bit for bit from run to run.
"""

import triton
import triton.language as tl


@triton.jit
def _split(factor, OPERAND: tl.constexpr, HALF: tl.constexpr):
    """factor ≈ high + low, each a number that the type HALF holds, both as OPERAND."""
    high = factor.to(HALF)
    low = (factor.to(tl.float32) - high.to(tl.float32)).to(HALF)
    return high.to(OPERAND), low.to(OPERAND)


# A tile of W or G is BLOCK_ROWS rows of CHUNKS·32 columns. In memory's order it is (CHUNKS·BLOCK_ROWS, 32): a thread
# holds 8 neighbouring columns, 16 bytes of a bf16 weight and one byte of the mask, and a warp 8 rows. The tensor
# cores deal out the elements of a product (BLOCK_ROWS, CHUNKS·32) otherwise: WARPS·16 rows as (warp, half, 8) and
# 32 columns as (4, thread, 2). Rows and columns of a product may come in any order, so they are numbered such that
# both orders put each element into the same thread. A tile goes from one to the other without leaving its registers.


@triton.jit
def _product_rows(BLOCK_ROWS: tl.constexpr, WARPS: tl.constexpr):
    """The row of a tile in memory that each row of a product is."""
    m = tl.arange(0, BLOCK_ROWS)
    return m // (16 * WARPS) * (16 * WARPS) + m // 8 % 2 * (8 * WARPS) + m // 16 % WARPS * 8 + m % 8


@triton.jit
def _product_columns(CHUNKS: tl.constexpr):
    """The column of a tile in memory that each column of a product is."""
    n = tl.arange(0, CHUNKS * 32)
    return n // 32 * 32 + n // 2 % 4 * 8 + n // 8 % 4 * 2 + n % 2


@triton.jit
def _from_product(tile, BLOCK_ROWS: tl.constexpr, CHUNKS: tl.constexpr, WARPS: tl.constexpr):
    """A tile in a product's order → in memory's."""
    tile = tl.reshape(tile, (BLOCK_ROWS // (16 * WARPS), WARPS, 2, 8, CHUNKS, 4, 4, 2))
    return tl.reshape(tl.permute(tile, (4, 0, 2, 1, 3, 6, 5, 7)), (CHUNKS * BLOCK_ROWS, 32))


@triton.jit
def _to_product(tile, BLOCK_ROWS: tl.constexpr, CHUNKS: tl.constexpr, WARPS: tl.constexpr):
    """A tile in memory's order → in a product's."""
    tile = tl.reshape(tile, (CHUNKS, BLOCK_ROWS // (16 * WARPS), 2, WARPS, 8, 4, 4, 2))
    return tl.reshape(tl.permute(tile, (1, 3, 2, 4, 0, 6, 5, 7)), (BLOCK_ROWS, CHUNKS * 32))


@triton.jit
def tile_place(first_row, first_column, BLOCK_ROWS: tl.constexpr, CHUNKS: tl.constexpr):
    """Row (CHUNKS·BLOCK_ROWS, 1) and first column (the same) of each line of a tile in memory's order."""
    line = tl.arange(0, CHUNKS * BLOCK_ROWS)[:, None]
    return first_row + line % BLOCK_ROWS, first_column + line // BLOCK_ROWS * 32


@triton.jit
def _load_tile(
    matrix,
    mask,
    first_row,
    last_row,
    first_column,
    columns,
    mask_columns,
    BLOCK_ROWS: tl.constexpr,
    CHUNKS: tl.constexpr,
):
    """A tile of W or G and its bytes of the mask (CHUNKS·BLOCK_ROWS, 4); zeros outside."""
    row, first = tile_place(first_row, first_column, BLOCK_ROWS, CHUNKS)
    column = first + tl.arange(0, 32)[None, :]
    byte = first // 8 + tl.arange(0, 4)[None, :]
    inside = row < last_row
    row = row.to(tl.int64)
    value = tl.load(
        matrix + row * columns + column,
        mask=inside & (column < columns),
        other=0.0,
        eviction_policy="evict_first",
    )
    packed = tl.load(mask + row * mask_columns + byte, mask=inside & (byte < mask_columns), other=0)
    return value, packed


@triton.jit
def _unpack(packed):
    """Bytes of the mask (lines, 4) → what they keep (lines, 32)."""
    keep = (packed.to(tl.int32)[:, :, None] & (1 << tl.arange(0, 8))) != 0
    return tl.reshape(keep, (packed.shape[0], 32))


@triton.jit
def _load_b(
    lora_b,
    row,
    last_row,
    first_rank,
    ranks,
    RANK: tl.constexpr,
    RANK_TILE: tl.constexpr,
):
    """B at rows `row` and so many `ranks` of its columns, (rows, RANK_TILE), zeros outside."""
    rank = tl.arange(0, RANK_TILE)[None, :]
    return tl.load(
        lora_b + row.to(tl.int64)[:, None] * RANK + first_rank + rank,
        mask=(row < last_row)[:, None] & (rank < ranks),
        other=0.0,
    )


@triton.jit
def effective_tile(
    weight,
    mask,
    lora_a,
    lora_b,
    scaling,
    rows,
    columns,
    mask_columns,
    first_row,
    first_column,
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
    """A tile of W + s·BA in fp32, in memory's order, and its bytes of the mask."""
    value, packed = _load_tile(
        weight, mask, first_row, rows, first_column, columns, mask_columns, BLOCK_ROWS, CHUNKS
    )
    row = first_row + _product_rows(BLOCK_ROWS, WARPS)
    column = first_column + _product_columns(CHUNKS)
    product = tl.zeros((BLOCK_ROWS, CHUNKS * 32), tl.float32)
    for first_rank in range(0, RANK, RANK_SLICE):
        ranks = RANK - first_rank
        rank = tl.arange(0, RANK_SLICE)
        a = tl.load(
            lora_a + (first_rank + rank)[:, None] * columns + column[None, :],
            mask=(rank < ranks)[:, None] & (column < columns)[None, :],
            other=0.0,
        )
        b = _load_b(lora_b, row, rows, first_rank, ranks, RANK, RANK_SLICE)
        a_high, a_low = _split(a, OPERAND, HALF)
        b_high, b_low = _split(b, OPERAND, HALF)
        if SPLIT:
            product = tl.dot(b_low, a_high, product, input_precision=PRECISION)
            product = tl.dot(b_high, a_low, product, input_precision=PRECISION)
        product = tl.dot(b_high, a_high, product, input_precision=PRECISION)
    product = _from_product(product, BLOCK_ROWS, CHUNKS, WARPS)
    return value.to(tl.float32) + scaling * product, packed


@triton.jit
def _write_effective_tile(
    weight,
    mask,
    lora_a,
    lora_b,
    out,
    scaling,
    rows,
    columns,
    mask_columns,
    tile,
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
    """Tile number `tile` of W' into out, row by row of tiles."""
    across = tl.cdiv(columns, CHUNKS * 32)
    first_row, first_column = tile // across * BLOCK_ROWS, tile % across * CHUNKS * 32
    value, packed = effective_tile(
        weight, mask, lora_a, lora_b, scaling, rows, columns, mask_columns, first_row, first_column,
        RANK, RANK_SLICE, OPERAND, HALF, SPLIT, PRECISION, BLOCK_ROWS, CHUNKS, WARPS,
    )  # fmt: skip
    row, first = tile_place(first_row, first_column, BLOCK_ROWS, CHUNKS)
    column = first + tl.arange(0, 32)[None, :]
    tl.store(
        out + row.to(tl.int64) * columns + column,
        tl.where(_unpack(packed), value, 0.0).to(out.dtype.element_ty),
        mask=(row < rows) & (column < columns),
    )


@triton.jit(do_not_specialize=["mask_columns"])
def effective_weight_kernel(
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
    _write_effective_tile(
        weight, mask, lora_a, lora_b, out, scaling, rows, columns, mask_columns, tl.program_id(0),
        RANK, RANK_SLICE, OPERAND, HALF, SPLIT, PRECISION, BLOCK_ROWS, CHUNKS, WARPS,
    )  # fmt: skip


@triton.jit(do_not_specialize=["mask_columns", "rows_per_program"])
def masked_reduction_kernel(
    gradient,
    mask,
    lora_a,
    lora_b,
    parts,
    size_a,
    rows,
    columns,
    mask_columns,
    first_rank,
    rows_per_program,
    RANK: tl.constexpr,
    RANKS: tl.constexpr,
    RANK_TILE: tl.constexpr,
    OPERAND: tl.constexpr,
    HALF: tl.constexpr,
    SPLIT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    CHUNKS: tl.constexpr,
    WARPS: tl.constexpr,
):
    # One program owns rows_per_program × (32·CHUNKS) elements of G and walks down the rows, the next tile on its
    # way while it works on one. At each step its share of dB is complete (over its columns) and written; its
    # share of dAᵀ is complete at the end. For dB the tile stays in registers, for dAᵀ it is turned in shared memory.
    column_part = tl.program_id(0)
    row_part = tl.program_id(1)
    first_column = column_part * CHUNKS * 32
    column = first_column + _product_columns(CHUNKS)
    rank = tl.arange(0, RANK_TILE)
    inside_a = (rank < RANKS)[None, :] & (column < columns)[:, None]
    a = tl.load(lora_a + (first_rank + rank)[None, :] * columns + column[:, None], mask=inside_a, other=0.0)
    a_high, a_low = _split(a, OPERAND, HALF)
    sum_a = tl.zeros((CHUNKS * 32, RANK_TILE), tl.float32)
    first_row = row_part * rows_per_program
    last_row = tl.minimum(first_row + rows_per_program, rows)
    row = first_row + _product_rows(BLOCK_ROWS, WARPS)
    value, packed = _load_tile(
        gradient, mask, first_row, last_row, first_column, columns, mask_columns, BLOCK_ROWS, CHUNKS
    )
    b = _load_b(lora_b, row, last_row, first_rank, RANKS, RANK, RANK_TILE)
    for step in range(first_row, last_row, BLOCK_ROWS):
        next_row = row + BLOCK_ROWS
        next_value, next_packed = _load_tile(
            gradient,
            mask,
            step + BLOCK_ROWS,
            last_row,
            first_column,
            columns,
            mask_columns,
            BLOCK_ROWS,
            CHUNKS,
        )
        next_b = _load_b(lora_b, next_row, last_row, first_rank, RANKS, RANK, RANK_TILE)
        value = tl.where(_unpack(packed), value, 0.0).to(OPERAND)
        value = _to_product(value, BLOCK_ROWS, CHUNKS, WARPS)
        sum_b = tl.dot(value, a_high, input_precision=PRECISION)
        if SPLIT:
            sum_b = tl.dot(value, a_low, sum_b, input_precision=PRECISION)
        tl.store(
            parts + size_a + (column_part * rows + row.to(tl.int64)[:, None]) * RANKS + rank[None, :],
            sum_b,
            mask=(row < last_row)[:, None] & (rank < RANKS)[None, :],
        )
        turned = tl.trans(value)
        b_high, b_low = _split(b, OPERAND, HALF)
        if SPLIT:
            sum_a = tl.dot(turned, b_low, sum_a, input_precision=PRECISION)
        sum_a = tl.dot(turned, b_high, sum_a, input_precision=PRECISION)
        row, value, packed, b = next_row, next_value, next_packed, next_b
    tl.store(
        parts + (row_part * RANKS + rank).to(tl.int64)[None, :] * columns + column[:, None],
        sum_a,
        mask=inside_a,
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


@triton.jit
def _finish(
    parts,
    grad_a,
    grad_b,
    scaling,
    size_a,
    number_a,
    number_b,
    rows,
    columns,
    rank,
    first_rank,
    programs_a,
    program,
    RANKS: tl.constexpr,
    BLOCK_PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sum and write what `program` has of dA (the first `programs_a`) or dB."""
    if program < programs_a:
        offset = program * BLOCK + tl.arange(0, BLOCK)
        size = columns * RANKS
        total = scaling * _sum_parts(parts, number_a, size, offset, BLOCK_PARTS, BLOCK)
        tl.store(
            grad_a + first_rank * columns + offset, total.to(grad_a.dtype.element_ty), mask=offset < size
        )
    else:
        offset = (program - programs_a) * BLOCK + tl.arange(0, BLOCK)
        size = rows * RANKS
        total = scaling * _sum_parts(parts + size_a, number_b, size, offset, BLOCK_PARTS, BLOCK)
        where = (offset // RANKS) * rank + first_rank + offset % RANKS
        tl.store(grad_b + where, total.to(grad_b.dtype.element_ty), mask=offset < size)


@triton.jit(do_not_specialize=["number_a", "number_b", "rank", "first_rank", "programs_a"])
def finish_kernel(
    parts,
    grad_a,
    grad_b,
    scaling,
    size_a,
    number_a,
    number_b,
    rows,
    columns,
    rank,
    first_rank,
    programs_a,
    RANKS: tl.constexpr,
    BLOCK_PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    _finish(
        parts, grad_a, grad_b, scaling, size_a, number_a, number_b, rows, columns, rank, first_rank,
        programs_a, tl.program_id(0), RANKS, BLOCK_PARTS, BLOCK,
    )  # fmt: skip


@triton.jit(
    do_not_specialize=[
        "number_a", "number_b", "rank", "first_rank", "programs_a", "programs", "mask_columns",
    ]
)  # fmt: skip
def finish_and_weight_kernel(
    parts,
    grad_a,
    grad_b,
    weight,
    mask,
    lora_a,
    lora_b,
    out,
    scaling,
    size_a,
    number_a,
    number_b,
    rows,
    columns,
    rank,
    first_rank,
    programs_a,
    programs,
    mask_columns,
    RANKS: tl.constexpr,
    BLOCK_PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
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
    # The first `programs` finish, the others write W': one launch for what does not depend on each other.
    program = tl.program_id(0)
    if program < programs:
        _finish(
            parts, grad_a, grad_b, scaling, size_a, number_a, number_b, rows, columns, rank, first_rank,
            programs_a, program, RANKS, BLOCK_PARTS, BLOCK,
        )  # fmt: skip
    else:
        _write_effective_tile(
            weight, mask, lora_a, lora_b, out, scaling, rows, columns, mask_columns, program - programs,
            RANK, RANK_SLICE, OPERAND, HALF, SPLIT, PRECISION, BLOCK_ROWS, CHUNKS, WARPS,
        )  # fmt: skip
