"""One pruned weight as its kept values and where they lie: the canonical form, the same on disk and on any device.

Positions come from a mask, never from `!= 0`: a kept weight that is zero, or −0.0, is a value like any other.
docs/format.md describes every byte.
"""

from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Literal, get_args

import torch
from torch import Tensor

from ressa.errors import RunError
from ressa.sparsity import pack_mask, unpack_mask

Form = Literal["2:4", "bitmask"]
FORMS: tuple[str, ...] = get_args(Form)

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
            mask = self.mask()
            kept = int(mask.sum())
            right = tuple(self.values.shape) == values_shape(self.shape, self.form, kept)
            right = right and torch.equal(_positions(mask, self.form), self.positions)
        if not right:
            raise RunError(
                f"The packed weight {name} of {rows} × {width} is damaged (its positions and its "
                f"{self.values.numel()} values do not belong together): make or fetch the folder anew."
            )


def pack(weight: Tensor, mask: Tensor) -> PackedWeight:
    """Keep the entries of a weight (out, in) where the mask is True; the form follows from the mask.

    Raises RunError if an entry that the mask drops is anything but +0.0, for that could not come back.
    """
    form = form_of(mask)
    bits = weight.detach().contiguous().view(_BITS[weight.element_size()])
    parts = []
    for rows in _chunks(weight.shape, weight.device):
        if bits[rows].masked_fill(mask[rows], 0).any():
            raise RunError("There are weights outside the mask, which packing would lose: prune again.")
        parts.append(_select(bits[rows], mask[rows]))
    values = torch.cat(parts) if parts else bits.new_empty(0)
    values = values.view(weight.dtype).reshape(values_shape(weight.shape, form, values.numel()))
    return PackedWeight(values, _positions(mask, form), (weight.shape[0], weight.shape[1]), form)


def form_of(mask: Tensor) -> Form:
    """ "2:4" where a mask (out, in) keeps exactly two of each four columns, else "bitmask"."""
    if mask.shape[1] % 4 or not mask.numel():
        return "bitmask"
    return "2:4" if bool((mask.reshape(-1, 4).sum(1) == 2).all()) else "bitmask"


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
        begin += int(mask.sum()) if rows.stop < dense.shape[0] else 0
    return dense.view(values.dtype)


@unpack.register_fake
def _(values: Tensor, positions: Tensor, width: int, form: str) -> Tensor:
    return values.new_empty(positions.shape[0], width)


def _chunks(shape: tuple[int, ...] | torch.Size, device: torch.device) -> list[slice]:
    """Rows that are handled together: few on a CPU, where caches are small; elsewhere all of them."""
    rows, width = shape
    step = max(1, _AT_ONCE // max(1, width)) if device.type == "cpu" else max(1, rows)
    return [slice(begin, min(begin + step, rows)) for begin in range(0, rows, step)]


def _select(bits: Tensor, mask: Tensor) -> Tensor:
    if bits.device.type == "cpu":  # three times as fast as masked_select
        return torch.from_numpy(bits.numpy()[mask.numpy()])
    return bits.masked_select(mask)


def _positions(mask: Tensor, form: Form) -> Tensor:
    packed = pack_mask(mask)
    return packed if form == "bitmask" else _codes(packed.device)[0][packed.long()]


def _mask(positions: Tensor, width: int, form: str) -> Tensor:
    packed = positions if form == "bitmask" else _codes(positions.device)[1][positions.long()]
    return unpack_mask(packed, width)


@cache
def _codes(device: torch.device) -> tuple[Tensor, Tensor]:
    """Of a byte of a mask, the byte that says where its bits lie; and the other way about.

    Of each half with two bits set it holds lower place | higher place << 2; an empty half (columns that are not
    there) stays 0. What no 2:4 mask has becomes 0 as well, and is found out by counting.
    """
    halves = {0: 0} | {1 << low | 1 << high: low | high << 2 for low, high in combinations(range(4), 2)}
    forth, back = torch.zeros(2, 256, dtype=torch.uint8)
    for low, its_code in halves.items():
        for high, other_code in halves.items():
            forth[low | high << 4] = its_code | other_code << 4
            back[its_code | other_code << 4] = low | high << 4
    return forth.to(device), back.to(device)
