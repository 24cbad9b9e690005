"""How a 2:4 weight lies for the kernels: blocks of 32 × 64 in the order of mma.sp's and wgmma.sp's fragments.

A block holds, for each of two steps of 32 columns and two tiles of 16 rows, the sparse A operand of an m16n8k32:
each lane's eight kept values together (512 bytes a warp, 256 where values are e4m3), as PTX lays them out; then a word
of metadata a lane and step. Of each four lanes the first two hold the metadata of the upper tile and the others that of
the lower one, so that one word serves both through the instruction's selector. cuda/decode24.cu reads this, and
cuda/prefill24.cu where values have two bytes.
"""

import torch
from torch import Tensor

ROWS, COLUMNS = 32, 64
KEPT = ROWS * COLUMNS // 2  # values of a block
METADATA_BYTES = ROWS * COLUMNS // 8


def block_bytes(value_bytes: int = 2) -> int:
    """Of a block, whose values have so many each."""
    return KEPT * value_bytes + METADATA_BYTES


# Dimensions of the values: row block, tile, half of its rows, row, column block, step, half of its columns, group of
# four columns, which of its two values. In memory: a lane is (row, group), its registers (half of columns, of rows).
_VALUES = (0, 4, 5, 1, 3, 7, 6, 2, 8)
_BITS = {1: torch.uint8, 2: torch.int16}  # values are moved as bits, whatever they mean
# Of the metadata, 16 bits for 16 columns of a row: row block, tile, half of rows, row, column block, step, half of
# columns. In memory: a lane is (row, tile, half of columns), its words (step), their halves (half of rows).
_METADATA = (0, 4, 3, 1, 6, 5, 2)


def to_blocks(values: Tensor, positions: Tensor) -> Tensor:
    """int16 (⌈out / 32⌉, ⌈in / 64⌉, `block_bytes` / 2) from the canonical values (out, in / 2), of one or two bytes,
    and positions (out, ⌈in / 8⌉) (`ressa.runtime.packing`).

    Rows and columns are filled up with zeros that lie in the first two places of their four.
    """
    rows, half = values.shape
    row_blocks, column_blocks = -(-rows // ROWS), -(-2 * half // COLUMNS)
    bits = _BITS[values.element_size()]
    kept = values.new_zeros(row_blocks * ROWS, column_blocks * 32, dtype=bits)
    kept[:rows, :half] = values.view(bits)
    places = positions.new_full((row_blocks * ROWS, column_blocks * 8), 0x44)  # places 0 and 1, twice
    places[:rows, : positions.shape[1]] = positions
    if half % 4 == 2:  # the last four columns have no neighbours
        places[:rows, half // 4] |= 0x40
    kept = kept.view(row_blocks, 2, 2, 8, column_blocks, 2, 2, 4, 2).permute(_VALUES)
    metadata = places.view(torch.int16).view(row_blocks, 2, 2, 8, column_blocks, 2, 2).permute(_METADATA)
    kept = kept.reshape(row_blocks, column_blocks, -1).view(torch.int16)
    return torch.cat([kept, metadata.reshape(row_blocks, column_blocks, -1)], 2)


def from_blocks(blocks: Tensor, rows: int, columns: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The canonical values (rows, columns / 2) and positions (rows, ⌈columns / 8⌉) again, bit for bit."""
    row_blocks, column_blocks, _ = blocks.shape
    begin = KEPT * dtype.itemsize // 2
    kept = blocks[:, :, :begin].contiguous().view(_BITS[dtype.itemsize])
    kept = kept.view(row_blocks, column_blocks, 2, 2, 8, 4, 2, 2, 2)
    kept = kept.permute(_inverse(_VALUES)).reshape(row_blocks * ROWS, column_blocks * 32)
    metadata = blocks[:, :, begin:].reshape(row_blocks, column_blocks, 8, 2, 2, 2, 2)
    metadata = metadata.permute(_inverse(_METADATA)).reshape(row_blocks * ROWS, column_blocks * 4)
    positions = metadata.contiguous().view(torch.uint8)[:rows, : -(-columns // 8)].contiguous()
    if columns % 8 == 4:
        positions[:, -1] &= 0x0F
    return kept[:rows, : columns // 2].contiguous().view(dtype), positions


def _inverse(permutation: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(permutation.index(i) for i in range(len(permutation)))
