"""One pruned weight as its kept values and where they lie: the canonical form, the same on disk and on any device.

Positions come from a mask, never from `!= 0`: a kept weight that is zero, or −0.0, is a value like any other.
docs/format.md describes every byte.
"""

from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ressa.errors import RunError
from ressa.sparsity import NM, pack_mask, unpack_mask
from ressa.sparsity.mask import count_packed

Form = Literal["2:4", "bitmask"]


_AT_ONCE = 1 << 22  # weights that a CPU packs or unpacks at a time: what lies in between stays small
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}  # values are moved as bits, whatever they mean


@dataclass(frozen=True)
class PackedWeight:
    """A weight (out, in) of which only the kept entries are stored.

    values: the kept entries in row-major order, (out, in / 2) for "2:4" and (kept,) for "bitmask"; of any dtype
    of one, two or four bytes. positions: uint8 (out, ceil(in / 8)); for "bitmask" the mask, one bit a weight
    (`pack_mask`); for "2:4" two bits a kept value, half a byte for four columns: the first place | the second
    << 2, the first four columns of eight in the lower half.
    """

    values: Tensor
    positions: Tensor
    shape: tuple[int, int]
    form: Form

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        return self.values.device

    @property
    def nbytes(self) -> int:
        """Bytes of values and positions."""
        return self.values.nbytes + self.positions.nbytes

    def mask(self) -> Tensor:
        """bool (out, in), True where an entry is stored."""
        return _mask(self.positions, self.shape[1], self.form)

    def dense(self) -> Tensor:
        """The weight (out, in), bit for bit, +0.0 where nothing is stored."""
        return unpack(self.values, self.positions, self.shape[1], self.form)

    def zeros(self) -> int:
        """How many entries of the weight are zero, stored ones included."""
        rows, width = self.shape
        return rows * width - int(self.values.count_nonzero())

    def check(self, name: str = "") -> None:
        """Raises RunError, naming the layer, unless values, positions and shape belong together."""
        rows, width = self.shape
        right = tuple(self.positions.shape) == (rows, -(-width // 8))
        if right:
            bits = mask_bytes(self.positions, self.form)
            beyond = bits[:, -1] >> (width % 8) if width % 8 else bits[:0]
            right = tuple(self.values.shape) == values_shape(self.shape, self.form, _count(bits))
            right = right and not beyond.any() and torch.equal(_codes(bits, self.form), self.positions)
        if not right:
            raise RunError(
                f"The packed weight {name} of {rows} × {width} is damaged (its positions and its "
                f"{self.values.numel()} values do not belong together): make or fetch the folder anew."
            )


def pack(weight: Tensor, mask: Tensor, form: Form | None = None) -> PackedWeight:
    """Keep the entries of a weight (out, in) where the mask is True. form: by default what the mask allows.

    Raises RunError if an entry that the mask drops is anything but +0.0, for that could not come back.
    """
    form = form or form_of(mask)
    bits = weight.detach().contiguous().view(_BITS[weight.element_size()])
    parts = []
    for rows in _chunks(weight.shape, weight.device):
        kept = _select(bits[rows], mask[rows])
        if _nonzero(kept) != _nonzero(bits[rows]):
            raise RunError("There are weights outside the mask, which packing would lose: prune again.")
        parts.append(kept)
    values = torch.cat(parts) if parts else bits.new_empty(0)
    values = values.view(weight.dtype).reshape(values_shape(weight.shape, form, values.numel()))
    return PackedWeight(values, positions_of(mask, form), (weight.shape[0], weight.shape[1]), form)


def form_of(mask: Tensor) -> Form:
    """ "2:4" where a mask (out, in) keeps exactly two of each four columns, else "bitmask"."""
    if mask.shape[1] % 4 or not mask.numel():
        return "bitmask"
    bits = pack_mask(mask.cpu())
    twos = NM(2, 4).verify_packed(bits, mask.shape[1]) and 2 * count_packed(bits) == mask.numel()
    return "2:4" if twos else "bitmask"


def values_shape(shape: tuple[int, ...] | torch.Size, form: Form, kept: int) -> tuple[int, ...]:
    """The shape that the values of a weight (out, in) are stored in; never that of the weight."""
    return (shape[0], shape[1] // 2) if form == "2:4" else (kept,)


@torch.library.custom_op("ressa::unpack", mutates_args=())
def unpack(values: Tensor, positions: Tensor, width: int, form: str) -> Tensor:
    """The dense weight (out, width) of a packed one's values and positions. Never waits for the device."""
    bits = values.reshape(-1).view(_BITS[values.element_size()])
    dense = torch.zeros(positions.shape[0], width, dtype=bits.dtype, device=bits.device)
    begin = 0
    for rows in _chunks(dense.shape, dense.device):
        mask = _mask(positions[rows], width, form)
        dense[rows].masked_scatter_(mask, bits[begin:])
        begin += _nonzero(mask) if rows.stop < dense.shape[0] else 0
    return dense.view(values.dtype)


@unpack.register_fake
def _(values: Tensor, positions: Tensor, width: int, form: str) -> Tensor:
    return values.new_empty(positions.shape[0], width)


def _chunks(shape: tuple[int, ...] | torch.Size, device: torch.device) -> list[slice]:
    """Rows that are handled together: few on a CPU, where caches are small; elsewhere all of them."""
    rows, width = shape
    step = max(1, _AT_ONCE // max(1, width)) if device.type == "cpu" else max(1, rows)
    return [slice(begin, min(begin + step, rows)) for begin in range(0, rows, step)]


# What follows does on a CPU with numpy what PyTorch does several times as slowly there.


def _select(bits: Tensor, mask: Tensor) -> Tensor:
    if bits.device.type != "cpu":
        return bits.masked_select(mask)
    return torch.from_numpy(bits.numpy()[mask.numpy()])


def _nonzero(bits: Tensor) -> int:
    if bits.device.type != "cpu":
        return int(bits.count_nonzero())
    return int(np.count_nonzero(bits.numpy()))


def _count(bits: Tensor) -> int:
    """How many bits of a packed mask are set."""
    return count_packed(bits) if bits.device.type == "cpu" else int(_look_up(_ONES, bits).sum())


def _look_up(table: "np.ndarray[Any, np.dtype[np.uint8]]", places: Tensor) -> Tensor:
    """The entry of a table of 256 bytes for each byte."""
    if places.device.type != "cpu":
        return _on_device(table.tobytes(), places.device)[places.long()]
    return torch.from_numpy(table[places.numpy()])


@cache
def _on_device(table: bytes, device: torch.device) -> Tensor:
    return torch.frombuffer(bytearray(table), dtype=torch.uint8).to(device)


def positions_of(mask: Tensor, form: Form) -> Tensor:
    """Where a mask (out, in) keeps entries, as `PackedWeight.positions` says it."""
    return _codes(pack_mask(mask), form)


def mask_bytes(positions: Tensor, form: str) -> Tensor:
    """The packed mask (`pack_mask`) that positions stand for."""
    return positions if form == "bitmask" else _look_up(_TO_BITS, positions)


def _codes(bits: Tensor, form: str) -> Tensor:
    """The inverse of `mask_bytes`."""
    return bits if form == "bitmask" else _look_up(_TO_CODES, bits)


def _mask(positions: Tensor, width: int, form: str) -> Tensor:
    return unpack_mask(mask_bytes(positions, form), width)


# Of a byte of a mask, the byte that says where its bits lie, and the other way about. Of each half with two bits
# set that is lower place | higher place << 2; an empty half (columns that are not there) stays 0. What no 2:4 mask
# has becomes 0 as well, and is found out by counting.
_HALVES = {0: 0} | {1 << low | 1 << high: low | high << 2 for low, high in combinations(range(4), 2)}
_TO_CODES, _TO_BITS = np.zeros((2, 256), dtype=np.uint8)
for _low, _code in _HALVES.items():
    for _high, _other in _HALVES.items():
        _TO_CODES[_low | _high << 4] = _code | _other << 4
        _TO_BITS[_code | _other << 4] = _low | _high << 4
_ONES = np.bitwise_count(np.arange(256, dtype=np.uint8))
