"""Wanda: pruning by weights and activations (Sun et al., 2023, arXiv 2306.11695)."""

from torch import Tensor

from ressa.calibration.statistics import Statistics
from ressa.sparsity.pattern import Pattern


def apply(
    weight: Tensor, statistics: Statistics | None, pattern: Pattern, *, name: str = "", seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Keep the weights (out, in) with the highest |W_ij|·‖x_j‖₂ (the paper compares within a row).

    statistics: anything with `norm()`. Kept weights are unchanged; `name` and `seed` change nothing.
    """
    assert statistics is not None, "Wanda needs the norms of the layer's inputs"
    mask = pattern.select(score(weight, statistics))
    return mask, weight.detach().masked_fill(~mask, 0)


def score(weight: Tensor, statistics: Statistics) -> Tensor:
    """S_ij = |W_ij|·‖x_j‖₂ (equation 1), fp32 (out, in); the norm's constant factor √tokens is left out."""
    return weight.detach().abs() * statistics.norm().to(weight.device)  # a product with fp32 is fp32
