"""A weight of any pattern as streams, a lane of mma.sp's fragments each, that hold nothing but what is kept.

Each group of four columns is up to two sparse operands: its first two kept values (a lone one paired with a column that
is not kept), and what is kept beyond, which lies in columns 2 and 3. A group that keeps nothing has none. Records of 32
rows × `BLOCKS` blocks of 64 columns are, in rows of 32 words (int32):

- masks, a row a block: a lane's bits of groups that have the first operand in the lower half, of those that have the
  second in the upper one, 16 groups in the order (step of 32 columns, tile of 16 rows, half of the columns, half of
  the rows);
- metadata, two rows a block: a lane's words of both steps, as in `layout24`;
- the streams: word j of every lane in row j, two values each. Of a step and tile the four first operands, then the
  four second ones, as far as they are there. All streams of a record are as long as the longest.

cuda/streams.cu reads this.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ressa.runtime.kernels import layout24
from ressa.runtime.kernels.layout24 import COLUMNS, ROWS
from ressa.runtime.kernels.split import low_half, tables

BLOCKS = 8  # of a record: lanes' streams are the nearer to equally long the more there are
HEAD = BLOCKS * 3  # rows of masks and metadata
_AT_ONCE = 1 << 22  # weights that are sorted at a time: about 100 MB of intermediate results


@dataclass(frozen=True)
class Streams:
    """records int32 (rows, 32 lanes); offsets int32 (row blocks · records of a row + 1): the first row of each record;
    zeros int64: where in the flattened weight kept values are +0.0, which look like ones that are not kept."""

    records: Tensor
    offsets: Tensor
    zeros: Tensor

    def longest(self) -> int:
        """Bytes of the longest record. Waits for the device."""
        return int(self.offsets.diff().max()) * 128


def to_streams(dense: Tensor, mask: Tensor) -> Streams:
    """From a weight (out, in) of two-byte values, +0.0 where it is not kept, and its mask (out, in), bool."""
    bits16 = dense.view(torch.int16)
    zeros = (mask & (bits16 == 0)).view(-1).nonzero().view(-1)
    rows, columns = mask.shape
    missing = (0, -columns % (COLUMNS * BLOCKS), 0, -rows % ROWS)
    kept, bits16 = F.pad(mask, missing), F.pad(bits16, missing)
    parts = [_streams(bits16[chunk], kept[chunk]) for chunk in _chunks(*kept.shape)]
    lengths = torch.cat([lengths for _, lengths in parts])
    return Streams(
        torch.cat([records for records, _ in parts]),
        torch.cat([lengths.new_zeros(1), lengths.cumsum(0, dtype=torch.int32)]),
        zeros,
    )


def from_streams(streams: Streams, rows: int, columns: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The weight (rows, columns) and its mask again, bit for bit."""
    high, wide = -(-rows // ROWS), -(-columns // (COLUMNS * BLOCKS))
    device = streams.records.device
    starts = streams.offsets[:-1].long()
    head = streams.records[starts[:, None] + torch.arange(HEAD, device=device)]
    words = head[:, :BLOCKS].transpose(1, 2).contiguous().view(high, wide, 32, BLOCKS)
    there = _bits(words)
    held = torch.zeros(there.shape, dtype=torch.int32, device=device)
    held[there] = streams.records.view(-1)[_addresses(there, starts.view(high, wide))[there]]
    first, second = (_to_rows(held.view(*words.shape, 4, 2, 4)[..., which, :]) for which in (0, 1))
    codes = _codes(head[:, BLOCKS:], high, wide)
    groups = torch.zeros(*first.shape, 4, dtype=torch.int16, device=device)
    groups.scatter_(2, (codes & 3)[..., None], low_half(first)[..., None])
    groups.scatter_(2, (codes >> 2)[..., None], low_half(first >> 16)[..., None])
    groups[..., 2] |= low_half(second)
    groups[..., 3] |= low_half(second >> 16)
    bits16 = groups.view(high * ROWS, -1)[:rows, :columns].contiguous()
    mask = bits16 != 0
    mask.view(-1)[streams.zeros] = True
    return bits16.view(dtype), mask


def _streams(bits16: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Records of some rows, one after the other, and their lengths in rows."""
    rows = len(mask)
    powers = torch.tensor([1, 2, 4, 8], dtype=torch.uint8, device=mask.device)
    nibbles = (mask.view(rows, -1, 4) * powers).sum(2, dtype=torch.uint8).int()
    codes, beyond = (table[nibbles] for table in tables(mask.device))
    groups = bits16.view(rows, -1, 4).int() & 0xFFFF
    pairs = groups.gather(2, torch.stack([codes & 3, codes >> 2], 2).long())
    first = pairs[..., 0] | pairs[..., 1] << 16
    second = groups[..., 2] * (beyond & 1) | (groups[..., 3] * (beyond >> 1)) << 16
    # (row block, record, lane, block, step and tile, which operand, group)
    held = torch.stack([_to_lanes(first), _to_lanes(second)], 5)
    there = torch.stack([_to_lanes(nibbles > 0), _to_lanes(beyond > 0)], 5)
    high, wide = held.shape[:2]
    held, there = (each.view(high, wide, 32, BLOCKS, 32) for each in (held, there))
    lengths = HEAD + there.sum((3, 4), dtype=torch.int32).amax(2).view(-1)
    ends = lengths.cumsum(0)
    starts = (ends - lengths).view(high, wide)
    records = torch.zeros(int(ends[-1]), 32, dtype=torch.int32, device=mask.device)
    rows_of_head = starts.view(-1, 1) + torch.arange(HEAD, device=mask.device)
    masks = _words(there).view(-1, 32, BLOCKS).transpose(1, 2)
    positions = (codes[:, 0::2] | codes[:, 1::2] << 4).to(torch.uint8)
    records[rows_of_head] = torch.cat([masks, _metadata(positions, high, wide)], 1)
    records.view(-1)[_addresses(there, starts)[there]] = held[there]
    return records, lengths


# A lane's 32 bits of a block, in the order of its stream: step and tile, which operand, group. As masks hold them:
# which operand, step and tile, group.
_TO_MASK = (0, 1, 2, 3, 5, 4, 6)


def _words(there: Tensor) -> Tensor:
    """bool (row blocks, records, 32 lanes, BLOCKS, 32) → int32 masks (…, BLOCKS)."""
    bits = there.view(*there.shape[:4], 4, 2, 4).permute(_TO_MASK).reshape(there.shape)
    shifts = torch.arange(32, dtype=torch.int32, device=there.device)
    return (bits.int() << shifts).sum(4, dtype=torch.int32)


def _bits(words: Tensor) -> Tensor:
    """The inverse of `_words`."""
    shifts = torch.arange(32, dtype=torch.int32, device=words.device)
    bits = (words[..., None] >> shifts & 1).bool()
    return bits.view(*words.shape, 2, 4, 4).permute(_TO_MASK).reshape(*words.shape, 32)


def _to_lanes(of_groups: Tensor) -> Tensor:
    """(row blocks · 32, groups) → (row blocks, records, 32 lanes, BLOCKS, 4 of step and tile, 4 groups)."""
    rows, groups = of_groups.shape
    # row block, tile, half, row | record, block, step, half, column
    parts = of_groups.view(rows // ROWS, 2, 2, 8, groups // (BLOCKS * 16), BLOCKS, 2, 2, 4)
    lanes = parts.permute(0, 4, 3, 8, 5, 6, 1, 7, 2)
    return lanes.reshape(lanes.shape[0], lanes.shape[1], 32, BLOCKS, 4, 4)


def _to_rows(of_lanes: Tensor) -> Tensor:
    """The inverse of `_to_lanes`."""
    high, wide = of_lanes.shape[:2]
    parts = of_lanes.reshape(high, wide, 8, 4, BLOCKS, 2, 2, 2, 2).permute(0, 6, 8, 2, 1, 4, 5, 7, 3)
    return parts.reshape(high * ROWS, wide * BLOCKS * 16)


def _metadata(positions: Tensor, high: int, wide: int) -> Tensor:
    """(records, 2 · BLOCKS, 32): the words of `layout24`, block after block, from canonical positions."""
    empty = positions.new_empty(positions.shape[0], positions.shape[1] * 4, dtype=torch.uint8)
    blocks = layout24.to_blocks(empty, positions)[:, :, -layout24.METADATA_BYTES // 2 :]
    return blocks.contiguous().view(torch.int32).reshape(high * wide, 2 * BLOCKS, 32)


def _codes(metadata: Tensor, high: int, wide: int) -> Tensor:
    """int64 (row blocks · 32, groups): the places of the two values, first | second << 2."""
    words = metadata.contiguous().view(torch.int16).view(high, wide * BLOCKS, -1)
    empty = words.new_empty(high, wide * BLOCKS, layout24.KEPT // 2)
    columns = wide * BLOCKS * COLUMNS
    _, positions = layout24.from_blocks(torch.cat([empty, words], 2), high * ROWS, columns, torch.uint8)
    return torch.stack([positions & 15, positions >> 4], 2).view(high * ROWS, columns // 4).long()


def _addresses(there: Tensor, starts: Tensor) -> Tensor:
    """Where in the flattened records each operand's word lies, if it is there."""
    high, wide = there.shape[:2]
    row = there.view(high, wide, 32, -1).cumsum(3, dtype=torch.int32).view(there.shape) - 1
    lanes = torch.arange(32, device=there.device).view(32, 1, 1)
    return (starts[..., None, None, None] + HEAD + row) * 32 + lanes


def _chunks(rows: int, columns: int) -> list[slice]:
    step = max(1, _AT_ONCE // (columns * ROWS)) * ROWS
    return [slice(begin, min(begin + step, rows)) for begin in range(0, rows, step)]
