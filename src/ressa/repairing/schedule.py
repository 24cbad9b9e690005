"""The learning rate of LAVIS, which the paper trains with: warm-up over steps, then a cosine over whole epochs."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class EpochCosine:
    """Step → the learning rate as a share of its peak (LAVIS, `linear_warmup_cosine_lr`).

    In the first epoch it rises from `first` by equal parts to the peak, which it reaches after `warmup_steps` and
    keeps; every later epoch has one rate, on a cosine over `epochs` from the peak to `last`. So a run of one epoch
    knows the warm-up only: shorter than that it never reaches the peak, and the cosine never begins.

    first, last: shares of the peak. steps_per_epoch: of the optimiser.
    """

    first: float
    last: float
    warmup_steps: int
    epochs: int
    steps_per_epoch: int

    def __call__(self, step: int) -> float:
        epoch = step // self.steps_per_epoch
        if epoch == 0:
            return min(1.0, self.first + (1 - self.first) * step / max(self.warmup_steps, 1))
        return self.last + (1 - self.last) * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))
