"""Random pruning: the baseline every other method must beat."""

import hashlib

import torch
from torch import Tensor

from ressa.calibration.statistics import Statistics
from ressa.sparsity.pattern import Pattern


def apply(
    weight: Tensor, statistics: Statistics | None, pattern: Pattern, *, name: str = "", seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Keep weights (out, in) at random: the same ones for the same seed and layer name, on any device.

    Weights that are 0 already go first.
    """
    scores = score(weight.shape, name=name, seed=seed).to(weight.device)
    mask = pattern.select(scores.masked_fill(weight.detach() == 0, -1))
    return mask, weight.detach().masked_fill(~mask, 0)


def score(shape: torch.Size, *, name: str, seed: int) -> Tensor:
    """Uniform fp32 scores on the CPU, drawn from a stream that belongs to this seed and layer alone."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little", signed=True))
    return torch.rand(shape, generator=generator)
