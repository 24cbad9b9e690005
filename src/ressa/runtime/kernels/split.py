"""A weight of any pattern as a 2:4 weight and the rest.

The 2:4 weight has the first two kept values of each group of four columns; a lone value is paired with a column that is
not kept. What is kept beyond these lies in the last two columns of its group, so that its places need not be stored.
The rest is a record for each four blocks of the 2:4 weight (`layout24`): a bit for each group, whether it has a third
kept value, 16 of them for a lane and block, in the order (step of 32 columns, tile of 16 rows, half of the columns,
half of the rows); then the values of columns 2 and 3 of those groups, a word each, as a stream for each lane, all as
long as the longest. cuda/decode24.cu reads this.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from ressa.runtime.kernels import layout24
from ressa.runtime.kernels.layout24 import COLUMNS, ROWS

BLOCKS = 4  # of a record
MASK_ROWS = 2  # rows of 32 words, in which a record's masks lie
_AT_ONCE = 1 << 22  # weights that are sorted at a time: about 100 MB of intermediate results


@dataclass(frozen=True)
class Split:
    """blocks int16: the 2:4 weight (`layout24`); records int32 (rows, 32 lanes); offsets int32 (row blocks · records
    of a row + 1): the first row of each record; zeros int64: where in the flattened weight kept values are +0.0,
    which look like ones that are not kept."""

    blocks: Tensor
    records: Tensor
    offsets: Tensor
    zeros: Tensor

    def longest(self) -> int:
        """Bytes of the longest record. Waits for the device."""
        return int(self.offsets.diff().max()) * 128


def to_split(dense: Tensor, mask: Tensor) -> Split:
    """From a weight (out, in) of two-byte values, +0.0 where it is not kept, and its mask (out, in), bool."""
    bits16 = dense.view(torch.int16)
    zeros = (mask & (bits16 == 0)).view(-1).nonzero().view(-1)
    rows, columns = mask.shape
    missing = -columns % COLUMNS
    kept, bits16 = F.pad(mask, (0, missing)), F.pad(bits16, (0, missing))
    parts = [_split_rows(bits16[chunk], kept[chunk]) for chunk in _chunks(rows, columns + missing)]
    lengths = torch.cat([part.lengths for part in parts]).view(-1)
    return Split(
        layout24.to_blocks(torch.cat([p.values for p in parts]), torch.cat([p.positions for p in parts])),
        torch.cat([part.records for part in parts]),
        torch.cat([lengths.new_zeros(1), lengths.cumsum(0, dtype=torch.int32)]),
        zeros,
    )


def stack(parts: Sequence[Split], columns: int) -> Split:
    """Weights of so many columns below one another, each of whole blocks of rows; the last may end within one."""
    records, weights = 0, 0
    offsets, zeros = [parts[0].offsets[:1]], []
    for part in parts:
        offsets.append(part.offsets[1:] + records)
        zeros.append(part.zeros + weights)
        records += len(part.records)
        weights += len(part.blocks) * ROWS * columns
    return Split(
        torch.cat([part.blocks for part in parts]),
        torch.cat([part.records for part in parts]),
        torch.cat(offsets),
        torch.cat(zeros),
    )


def from_split(split: Split, rows: int, columns: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The weight (rows, columns) and its mask again, bit for bit."""
    column_blocks = split.blocks.shape[1]
    width = column_blocks * COLUMNS
    values, positions = layout24.from_blocks(split.blocks, rows, width, torch.int16)
    nibbles = torch.stack([positions & 15, positions >> 4], 2).view(rows, width // 4)
    groups = torch.zeros(rows, width // 4, 4, dtype=torch.int16, device=values.device)
    pairs = values.view(rows, width // 4, 2)
    groups.scatter_(2, (nibbles & 3).long()[..., None], pairs[..., :1])
    groups.scatter_(2, (nibbles >> 2).long()[..., None], pairs[..., 1:])
    row_records = -(-column_blocks // BLOCKS)
    for chunk in _chunks(rows, width):
        first, last = chunk.start // ROWS, -(-chunk.stop // ROWS)
        starts = split.offsets[first * row_records : last * row_records].view(-1, row_records).long()
        masks = split.records[(starts[..., None] + torch.arange(MASK_ROWS, device=starts.device)).view(-1)]
        words = masks.view(last - first, row_records, 32, 2)
        shifts = torch.arange(32, dtype=torch.int32, device=starts.device)
        there = (words[..., None] >> shifts & 1).bool().view(last - first, row_records, 32, BLOCKS, 16)
        more = torch.zeros(there.shape, dtype=torch.int32, device=starts.device)
        more[there] = split.records.view(-1)[_addresses(there, starts)[there]]
        more = _rows_of_groups(more, column_blocks)[: chunk.stop - chunk.start]
        groups[chunk, :, 2] |= low_half(more)
        groups[chunk, :, 3] |= low_half(more >> 16)
    bits16 = groups.view(rows, width)[:, :columns].contiguous()
    mask = bits16 != 0
    mask.view(-1)[split.zeros] = True
    return bits16.view(dtype), mask


@dataclass(frozen=True)
class _Part:
    """Some rows of a weight: the 2:4 one's canonical form, its records and their lengths in rows."""

    values: Tensor
    positions: Tensor
    records: Tensor
    lengths: Tensor


def _split_rows(bits16: Tensor, mask: Tensor) -> _Part:
    rows, columns = mask.shape
    powers = torch.tensor([1, 2, 4, 8], dtype=torch.uint8, device=mask.device)
    nibbles = (mask.view(rows, -1, 4) * powers).sum(2, dtype=torch.uint8).int()
    codes, beyond = (table[nibbles] for table in tables(mask.device))
    groups = bits16.view(rows, -1, 4)
    values = groups.gather(2, torch.stack([codes & 3, codes >> 2], 2).long())
    positions = (codes[:, 0::2] | codes[:, 1::2] << 4).to(torch.uint8)

    wide = groups.int() & 0xFFFF
    more = wide[..., 2] * (beyond & 1) | (wide[..., 3] * (beyond >> 1)) << 16
    there = _groups_of_lanes(beyond > 0)
    lengths = MASK_ROWS + there.sum((3, 4), dtype=torch.int32).amax(2)
    ends = lengths.view(-1).cumsum(0)
    starts = (ends - lengths.view(-1)).view(lengths.shape)
    records = torch.zeros(int(ends[-1]), 32, dtype=torch.int32, device=mask.device)
    shifts = torch.arange(32, dtype=torch.int32, device=mask.device)
    words = (there.view(*there.shape[:3], 2, 32).int() << shifts).sum(4, dtype=torch.int32)
    places = starts[..., None] + torch.arange(MASK_ROWS, device=mask.device)
    records[places.view(-1)] = words.view(-1, 32)
    records.view(-1)[_addresses(there, starts)[there]] = _groups_of_lanes(more)[there]
    return _Part(values.view(rows, columns // 2), positions, records, lengths)


@cache
def tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """Of the 16 ways in which four columns can be kept: the places of the first two kept, first | second << 2; and
    which of columns 2 and 3 are kept beyond these, as two bits."""
    codes, beyond = [], []
    for nibble in range(16):
        places = [column for column in range(4) if nibble >> column & 1]
        if len(places) < 2:  # a lone value beside a column that is not kept
            lone = places[0] if places else 0
            pair = (lone, 3) if lone < 3 else (2, 3)
        else:
            pair = (places[0], places[1])
        codes.append(pair[0] | pair[1] << 2)
        beyond.append(sum(1 << column - 2 for column in places[2:]))
    tables = torch.tensor([codes, beyond], dtype=torch.int32, device=device)
    return tables[0], tables[1]


def _chunks(rows: int, columns: int) -> list[slice]:
    step = max(1, _AT_ONCE // (columns * ROWS)) * ROWS
    return [slice(begin, min(begin + step, rows)) for begin in range(0, rows, step)]


def _groups_of_lanes(of_groups: Tensor) -> Tensor:
    """(rows, groups) → (row blocks, records of a row, 32 lanes, 4 blocks, 16), filled up with zeros."""
    rows, groups = of_groups.shape
    per_record = BLOCKS * COLUMNS // 4
    padded = F.pad(of_groups, (0, -groups % per_record, 0, -rows % ROWS))
    # row block, tile, half, row | record, block, step, half, column
    parts = padded.view(-(-rows // ROWS), 2, 2, 8, -(-groups // per_record), BLOCKS, 2, 2, 4)
    return parts.permute(0, 4, 3, 8, 5, 6, 1, 7, 2).reshape(parts.shape[0], parts.shape[4], 32, BLOCKS, 16)


def _rows_of_groups(of_lanes: Tensor, column_blocks: int) -> Tensor:
    """The inverse of `_groups_of_lanes`: (row blocks · 32, column blocks · 16)."""
    high, wide = of_lanes.shape[:2]
    parts = of_lanes.view(high, wide, 8, 4, BLOCKS, 2, 2, 2, 2).permute(0, 6, 8, 2, 1, 4, 5, 7, 3)
    return parts.reshape(high * ROWS, wide * BLOCKS * COLUMNS // 4)[:, : column_blocks * COLUMNS // 4]


def _addresses(there: Tensor, starts: Tensor) -> Tensor:
    """Where in the flattened records each group's word lies, if it is there."""
    high, wide = there.shape[:2]
    row = there.view(high, wide, 32, -1).cumsum(3, dtype=torch.int32).view(there.shape) - 1
    lanes = torch.arange(32, device=there.device).view(32, 1, 1)
    return (starts[..., None, None, None] + MASK_ROWS + row) * 32 + lanes


def low_half(words: Tensor) -> Tensor:
    """int16 of the lower halves of int32."""
    low = words & 0xFFFF
    return (low - (low >> 15 << 16)).to(torch.int16)
