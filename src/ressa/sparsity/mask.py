"""Masks at rest: one bit a weight."""

from collections.abc import Iterator, Mapping
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ressa.errors import RunError
from ressa.kernels.sparse_lora_torch import kept

_CHUNK = 1 << 19  # weights looked at at a time: what they take stays in a core's cache


def pack_mask(mask: Tensor) -> Tensor:
    """bool (out, in) → uint8 (out, ceil(in / 8)); bit i of byte j is column 8j + i, spare bits are 0."""
    if mask.device.type == "cpu":  # a hundred times as fast
        return torch.from_numpy(np.packbits(mask.numpy(), axis=1, bitorder="little"))
    spare = -mask.shape[1] % 8
    bits = F.pad(mask.to(torch.uint8), (0, spare)).reshape(mask.shape[0], -1, 8)
    packed = torch.zeros(bits.shape[:2], dtype=torch.uint8, device=mask.device)
    for i in range(8):
        packed |= bits[..., i] << i
    return packed


def unpack_mask(packed: Tensor, in_features: int) -> Tensor:
    """uint8 (out, ceil(in / 8)) → bool (out, in). Raises RunError if the width does not fit `in_features`."""
    if packed.shape[1] != -(-in_features // 8):
        raise RunError(
            f"A mask of {packed.shape[1]} bytes a row does not belong to a layer with {in_features} inputs: "
            "the mask file is not of this model."
        )
    if packed.device.type == "cpu":
        bits = np.unpackbits(packed.numpy(), axis=1, count=in_features, bitorder="little")
        return torch.from_numpy(bits.view(np.bool_))
    return kept(packed, in_features)


def pack_nonzero(weight: Tensor) -> Tensor:
    """`pack_mask(weight != 0)` of a weight (out, in) in memory or mapped from a file, at the memory's speed.

    Both zeros are all bits 0 but for the sign, so a weight of any float dtype is looked at as whole numbers.
    """
    if not weight.is_floating_point():
        return pack_mask(weight.detach().cpu() != 0)
    weight = weight.detach().cpu().contiguous()
    whole = weight.view(getattr(torch, f"int{8 * weight.itemsize}")).numpy()
    rows, width = whole.shape
    packed = np.empty((rows, -(-width // 8)), dtype=np.uint8)
    step = max(1, _CHUNK // max(1, width))
    for begin in range(0, rows, step):
        part = slice(begin, begin + step)
        packed[part] = np.packbits((whole[part] << 1) != 0, axis=1, bitorder="little")
    return torch.from_numpy(packed)


def count_packed(packed: Tensor) -> int:
    """How many weights a packed mask keeps."""
    return int(np.bitwise_count(packed.numpy()).sum(dtype=np.int64))


def count_zeros(weight: Tensor) -> int:
    """The number of zeros in a weight (out, in)."""
    kept = int(weight.count_nonzero()) if weight.device.type != "cpu" else count_packed(pack_nonzero(weight))
    return weight.numel() - kept


def count_packed_rows(packed: Tensor) -> Tensor:
    """int64 (out,): how many weights of each row a packed mask keeps."""
    return torch.from_numpy(np.bitwise_count(packed.numpy()).sum(axis=1, dtype=np.int64))


def any_group_over(packed: Tensor, n: int, m: int) -> bool:
    """Whether a packed mask keeps more than n of some m consecutive weights of a row. m divides 8, so that a byte
    holds whole groups; spare bits count as zeros."""
    return bool(_over(n, m)[packed.numpy()].any())


@cache
def _over(n: int, m: int) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    """bool (256,): whether a byte has a group of m bits of which more than n are set."""
    groups = np.arange(256)[:, None] >> np.arange(0, 8, m) & (1 << m) - 1
    return (np.bitwise_count(groups) > n).any(axis=1)


class PackedMasks(Mapping[str, Tensor]):
    """Layer name → bool (out, in), True = kept, each unpacked when it is asked for; at rest one bit a weight."""

    def __init__(self, masks: Mapping[str, Tensor] | None = None) -> None:
        self._packed: dict[str, tuple[Tensor, int]] = {}
        for name, mask in (masks or {}).items():
            self.put(name, mask)

    def put(self, name: str, mask: Tensor) -> None:
        """One more layer. mask: bool (out, in), on any device, where it is packed."""
        self.add(name, pack_mask(mask), mask.shape[1])

    def add(self, name: str, packed: Tensor, in_features: int) -> None:
        """One more layer. packed: uint8 (out, ceil(in / 8)), as `pack_mask` makes it."""
        self._packed[name] = packed.cpu(), in_features

    def update(self, other: "PackedMasks") -> None:
        """Take in the layers of another."""
        self._packed |= other._packed

    def packed(self, name: str) -> Tensor:
        """uint8 (out, ceil(in / 8))."""
        return self._packed[name][0]

    def width(self, name: str) -> int:
        """The layer's number of inputs."""
        return self._packed[name][1]

    def in_order(self, names: list[str]) -> "PackedMasks":
        """The same masks, of these layers and in their order."""
        chosen = PackedMasks()
        chosen._packed = {name: self._packed[name] for name in names}
        return chosen

    def __getitem__(self, name: str) -> Tensor:
        return unpack_mask(*self._packed[name])

    def __contains__(self, name: object) -> bool:
        return name in self._packed

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


def as_packed(masks: Mapping[str, Tensor]) -> PackedMasks:
    """The masks at rest; packed masks are given back as they are."""
    return masks if isinstance(masks, PackedMasks) else PackedMasks(masks)
