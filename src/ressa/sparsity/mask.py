"""Masks at rest: one bit a weight."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ressa.errors import RunError


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
        return torch.from_numpy(bits).view(torch.bool)
    shifts = torch.arange(8, dtype=torch.uint8, device=packed.device)
    each = (packed.unsqueeze(-1) >> shifts) & 1
    return each.flatten(1)[:, :in_features].bool()
