"""What an allocation may spend, and how shares become a plan that spends exactly that."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from ressa.anatomy import Anatomy
from ressa.errors import UsageError
from ressa.fused import on_plain_linears
from ressa.sparsity import Pattern, Plan, Scope, Unstructured

Granularity = Literal["block", "layer"]
Unit = Literal["parameters", "multiply-adds"]


@dataclass(frozen=True)
class Layer:
    """One prunable linear. group: what gets one sparsity together. cost: what a weight of it costs to keep, 1
    or, where multiply-adds are counted, the positions of a sample that go through it. asked: the share of
    zeros asked for its tower."""

    name: str
    tower: str
    group: str
    rows: int
    width: int
    cost: float = 1.0
    asked: float = 0.0

    @property
    def size(self) -> float:
        """What the whole layer costs when it is dense."""
        return self.rows * self.width * self.cost


@dataclass(frozen=True)
class Pool:
    """Layers that share one budget. zeros: how much of their cost is to be saved, in the unit of `cost`."""

    layers: tuple[Layer, ...]
    zeros: float

    @property
    def size(self) -> float:
        return sum(layer.size for layer in self.layers)

    @property
    def sparsity(self) -> float:
        """The share of the cost that is to be saved."""
        return self.zeros / self.size

    def groups(self) -> dict[str, tuple[Layer, ...]]:
        """Group → its layers, in order."""
        found: dict[str, tuple[Layer, ...]] = {}
        for layer in self.layers:
            found[layer.group] = (*found.get(layer.group, ()), layer)
        return found


@on_plain_linears
def make_pools(
    model: nn.Module,
    anatomy: Anatomy,
    sparsity: Mapping[str, float],
    *,
    joint: bool = True,
    granularity: Granularity = "block",
    costs: Mapping[str, float] | None = None,
) -> list[Pool]:
    """The budgets of towers: tower → share of zeros over its linears; a tower that is absent stays dense.

    joint: one pool of all towers, to be spread freely among them; else one pool a tower. costs: layer → cost
    of keeping one of its weights (default 1: parameters are counted). Raises UsageError for a tower that the
    model does not have, a share outside 0…1, or if nothing is to be pruned.
    """
    modules: dict[str, Any] = dict(model.named_modules())
    pools: list[Pool] = []
    for tower, share in sparsity.items():
        if tower not in anatomy.towers:
            raise UsageError(f"{type(model).__name__} has no {tower} with linear layers: leave it dense.")
        if not 0 <= share < 1:
            raise UsageError(
                f"A sparsity of {share} cannot be had: give a share from 0 up to, not including, 1."
            )
        layers = tuple(
            Layer(
                name,
                tower,
                block.name if granularity == "block" else name,
                modules[name].weight.shape[0],
                modules[name].weight.shape[1],
                1.0 if costs is None else costs[name],
                share,
            )
            for block in anatomy.blocks(tower)
            for name in block.linears
        )
        pools.append(Pool(layers, share * sum(layer.size for layer in layers)))
    if not any(pool.zeros for pool in pools):
        raise UsageError("Every tower is to stay dense, so there is nothing to prune: give one a sparsity.")
    if joint:
        return [Pool(tuple(l for pool in pools for l in pool.layers), sum(pool.zeros for pool in pools))]
    return [pool for pool in pools if pool.zeros]


def shift_to_budget(
    pool: Pool, shares: Mapping[str, float], lowest: float = 0.0, highest: float = 1.0
) -> dict[str, float]:
    """Shares of zeros (layer → share), all moved by one number and kept within bounds, that meet the budget.

    Raises UsageError if the budget lies outside the bounds.
    """
    if not lowest <= pool.sparsity <= highest:
        raise UsageError(
            f"A sparsity of {pool.sparsity:.0%} cannot be had with {lowest:.0%} to {highest:.0%} in each layer: "
            "raise the cap."
        )
    below, above = -2.0, 2.0
    for _ in range(80):
        middle = (below + above) / 2
        saved = sum(
            layer.size * min(highest, max(lowest, shares[layer.name] + middle)) for layer in pool.layers
        )
        below, above = (middle, above) if saved < pool.zeros else (below, middle)
    return {l.name: min(highest, max(lowest, shares[l.name] + above)) for l in pool.layers}


def fit(
    pool: Pool, shares: Mapping[str, float], scope: Scope = "row", highest: float = 1.0
) -> dict[str, Pattern]:
    """Patterns (layer → pattern) as near to the shares as whole weights allow, that spend the budget exactly.

    shares: layer → share of zeros, which together meet the budget. scope: "row" moves by one zero in each
    row of a layer, "layer" by one weight. What is saved differs from the budget by at most half of the
    smallest such move among layers with room (highest: the largest share a layer may get).
    """
    steps = {l.name: l.width if scope == "row" else l.rows * l.width for l in pool.layers}
    price = {l.name: l.size / steps[l.name] for l in pool.layers}
    room = {name: min(count - 1, math.floor(highest * count + 1e-9)) for name, count in steps.items()}
    wanted = {name: min(room[name], max(0.0, shares[name] * steps[name])) for name in steps}
    taken = {name: math.floor(value + 1e-9) for name, value in wanted.items()}
    left = pool.zeros - sum(taken[name] * price[name] for name in steps)
    # Largest remainders first, as in sharing out seats.
    for name in sorted(steps, key=lambda name: taken[name] - wanted[name]):
        if taken[name] < room[name] and price[name] <= left:
            taken[name] += 1
            left -= price[name]
    for name in sorted(steps, key=lambda name: -price[name]):
        more = min(room[name] - taken[name], math.floor(left / price[name] + 1e-9))
        if more > 0:
            taken[name] += more
            left -= more * price[name]
    open_ones = [name for name in steps if taken[name] < room[name]]
    if open_ones:
        smallest = min(open_ones, key=lambda name: price[name])
        if 2 * left >= price[smallest] - 1e-9:
            taken[smallest] += 1
    return {name: Unstructured(taken[name] / steps[name], scope) for name in steps}


def saved(plan: Mapping[str, Pattern], layers: Sequence[Layer]) -> float:
    """What a plan saves on these layers, in the unit of their cost."""
    return sum(plan[l.name].zeros((l.rows, l.width)) * l.cost for l in layers if l.name in plan)


def as_plan(patterns: Mapping[str, Pattern], order: Sequence[str]) -> Plan:
    """A plan in the given order of layers, those without a zero left out."""
    chosen = {name: patterns[name] for name in order if name in patterns}
    return Plan({name: pattern for name, pattern in chosen.items() if pattern.sparsity > 0})
