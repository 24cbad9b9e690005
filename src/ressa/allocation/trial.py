"""Pruning on trial: any plan put on the model by Wanda's scores of the dense model, and taken off again."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ressa.anatomy import Anatomy, Block
from ressa.calibration.experts import expert_groups, pool_few
from ressa.calibration.statistics import InputNorm, Statistics
from ressa.calibration.walk import walk
from ressa.sparsity import NM, Pattern
from ressa.sparsity.pattern import nearest


def input_statistics(
    model: nn.Module,
    anatomy: Anatomy,
    batches: Sequence[Mapping[str, Tensor]],
    layers: Iterable[str],
    device: torch.device | str | None = None,
) -> dict[str, InputNorm]:
    """Layer → norms and number of its inputs in the dense model, padding left out."""
    gathered: dict[str, InputNorm] = {}
    experts = expert_groups(model)

    def visit(_block: Block, statistics: dict[str, Statistics]) -> None:
        pool_few(statistics, experts)
        gathered.update(statistics)  # type: ignore[arg-type]

    walk(
        model,
        anatomy,
        batches,
        visit,
        lambda _name, linear: InputNorm(linear.in_features, linear.weight.device),
        device,
        layers=list(layers),
    )
    return gathered


class Trial:
    """Keeps the dense weights and, for every weight, its rank within its row; masks are then comparisons.

    Wanda's scores stand in for whatever method prunes in the end: they need no update of kept weights and no
    second walk. Memory: a copy of the weights, and two bytes a weight for ranks.
    """

    def __init__(self, model: nn.Module, norms: Mapping[str, Tensor]) -> None:
        modules: dict[str, Any] = dict(model.named_modules())
        self.weights: dict[str, Tensor] = {name: modules[name].weight for name in norms}
        self.dense = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self._norms = dict(norms)
        self._ranks = {name: self._rank(name) for name in norms}
        self._put: dict[str, Pattern | float] = {}

    def _scores(self, name: str) -> Tensor:
        dense = self.dense[name]
        return dense.float().abs() * self._norms[name].to(dense.device)

    def _rank(self, name: str) -> Tensor:
        """(out, in): 0 for the lowest score of a row; of equal scores the higher index goes first."""
        scores = self._scores(name).flip(1)
        order = scores.argsort(dim=1, stable=True)
        ranks = torch.empty_like(order).scatter_(
            1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
        )
        small = torch.int16 if order.shape[1] < 2**15 else torch.int32
        return ranks.flip(1).to(small)

    def kept(self, name: str, pattern: Pattern | float) -> Tensor:
        """bool (out, in): what a pattern, or a share of zeros in every row, keeps."""
        if isinstance(pattern, NM):
            return pattern.select(self._scores(name))
        share = pattern if isinstance(pattern, float) else pattern.sparsity
        ranks = self._ranks[name]
        return ranks >= nearest(share, ranks.shape[1])

    def band(self, name: str, share: float, reach: float) -> Tensor:
        """bool (out, in): the weights of each row within ±reach (a share of the row) of the threshold."""
        ranks = self._ranks[name]
        width = ranks.shape[1]
        middle, half = nearest(share, width), max(1, nearest(reach, width))
        return (ranks >= middle - half) & (ranks < middle + half)

    @torch.no_grad()
    def put(self, patterns: Mapping[str, Pattern | float]) -> None:
        """Prune the model as a plan or shares of zeros say; layers that are absent are dense."""
        for name, weight in self.weights.items():
            asked = patterns.get(name, 0.0)
            if self._put.get(name, 0.0) == asked:
                continue
            self._put[name] = asked
            weight.copy_(self.dense[name].masked_fill(~self.kept(name, asked), 0))

    @torch.no_grad()
    def restore(self) -> None:
        """The dense weights, bit for bit."""
        for name, weight in self.weights.items():
            weight.copy_(self.dense[name])
        self._put = {}


@contextmanager
def on_trial(model: nn.Module, norms: Mapping[str, Tensor]) -> Iterator[Trial]:
    """A `Trial` that leaves the model dense again."""
    trial = Trial(model, norms)
    try:
        yield trial
    finally:
        trial.restore()
