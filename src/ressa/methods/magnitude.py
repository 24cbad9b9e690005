"""Magnitude pruning: keep the largest |W| (Han et al., 2015).

The usual baseline compares over a whole layer (`Unstructured(s, "layer")`), its `Method.scope`; for one
comparison over all layers make the plan with `global_plan` from the scores below.
"""

from torch import Tensor

from ressa.calibration.statistics import Statistics
from ressa.sparsity.pattern import Pattern


def apply(
    weight: Tensor, statistics: Statistics | None, pattern: Pattern, *, name: str = "", seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Keep the largest magnitudes of weight (out, in). Needs no statistics, no `name`, no `seed`."""
    mask = pattern.select(score(weight))
    return mask, weight.detach().masked_fill(~mask, 0)


def score(weight: Tensor) -> Tensor:
    """|W_ij|, fp32 (out, in)."""
    return weight.detach().float().abs()
