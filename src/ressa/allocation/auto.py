"""auto: spend the budget where the dense model's words change least (docs/allocation.md says what was tried).

Shares of zeros: starting from what is asked for each tower, layers where a further zero costs more than the average get
fewer, the others more, until it costs about the same everywhere, which is the condition for a least loss at a
fixed budget. Costs are measured at the current plan (`slopes`). The plan is the mean of the later steps.

Choices (`dense`, 6:8, 4:8, 2:4 …): every group's choices are tried one at a time around the current plan,
their effects measured, and the best combination solved for exactly (`solve`); then once more around that.
"""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn

from ressa.allocation.allocation import Allocation
from ressa.allocation.budget import Granularity, Pool, Unit, as_plan, fit, make_pools, saved, shift_to_budget
from ressa.allocation.choices import best_choices
from ressa.allocation.outputs import Outputs, quiet
from ressa.allocation.slopes import slopes
from ressa.allocation.trial import Trial, input_statistics, on_trial
from ressa.anatomy import Anatomy, find_anatomy
from ressa.errors import UsageError
from ressa.fused import on_plain_linears
from ressa.progress import bar
from ressa.sparsity import Pattern, Scope

HIGHEST = 0.95
MOST = 2.0  # a step moves no layer as if its slope were more than e² times the mean, or less than e⁻²
FORGET = 0.5  # of the running mean of slopes, at each step


@on_plain_linears
def auto(
    model: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    sparsity: Mapping[str, float],
    *,
    anatomy: Anatomy | None = None,
    joint: bool = True,
    unit: Unit = "parameters",
    choices: Sequence[Pattern] = (),
    granularity: Granularity = "block",
    rounds: int = 2,
    steps: int = 16,
    samples_a_step: int = 32,
    rate: float = 0.04,
    reach: float = 0.06,
    seed: int = 0,
    scope: Scope = "row",
    device: torch.device | str | None = None,
) -> Allocation:
    """The plan found; the model's weights are the same afterwards, bit for bit.

    Args:
        batches: calibration inputs with labels.
        sparsity: tower → share of zeros that a uniform plan of the same budget would have.
        joint: whether towers share one budget (what one saves less the other saves more) or keep one each.
        unit: what the budget counts: kept parameters, or multiply-adds on these samples (a kept weight costs
            as many as positions go through it).
        choices: patterns to choose from beside dense, N:M or shares; the plan then saves at least the budget.
            Empty: any share of zeros, and the budget met exactly.
        granularity, rounds: with choices: what gets one pattern, and how often effects are measured.
        steps, samples_a_step, rate, reach: without choices: how many steps, on how many samples each, how far
            a layer's share moves (the first step; it falls linearly to nothing), the band that `slopes` reads.
        scope: of the unstructured patterns. `seed` changes nothing.

    `details` has the `unit`, the share `saved` in either unit, and the distance to the dense model (KL in nats a
    token, on the calibration samples under Wanda) of the uniform plan and of the one returned, which is never
    the worse one. Raises UsageError for a unit or a budget that cannot be had, or batches without targets.
    """
    if unit not in get_args(Unit):
        raise UsageError(f"There is no unit '{unit}': choose from {', '.join(get_args(Unit))}.")
    started = time.perf_counter()
    anatomy = anatomy or find_anatomy(model)
    layers = [name for tower in sparsity for name in anatomy.linears(tower)]
    outputs = Outputs(model, batches, device)
    statistics = input_statistics(model, anatomy, batches, layers, device)
    samples = sum(len(batch["labels"]) for batch in batches)
    costs: dict[Unit, dict[str, float]] = {
        "parameters": dict.fromkeys(layers, 1.0),
        "multiply-adds": {name: s.count / samples for name, s in statistics.items()},
    }
    pools = make_pools(model, anatomy, sparsity, joint=joint, granularity=granularity, costs=costs[unit])
    details: dict[str, Any] = {"unit": unit}
    with quiet(model), on_trial(model, {name: s.norm() for name, s in statistics.items()}) as trial:
        outputs.remember()
        if choices:
            patterns = best_choices(outputs, trial, pools, choices, rounds, details)
        else:
            a_step = max(1, round(samples_a_step / max(1, samples / len(batches))))
            patterns = _descend(outputs, trial, pools, scope, steps, a_step, rate, reach, details)
    plan = as_plan(patterns, anatomy.linears())
    details["saved"] = {}
    for each, cost in costs.items():
        (whole,) = make_pools(model, anatomy, sparsity, costs=cost)
        details["saved"][each] = saved(plan, whole.layers) / whole.size
    return Allocation("auto", plan, time.perf_counter() - started, details)


def _descend(
    outputs: Outputs,
    trial: Trial,
    pools: Sequence[Pool],
    scope: Scope,
    steps: int,
    a_step: int,
    rate: float,
    reach: float,
    details: dict[str, Any],
) -> dict[str, Pattern]:
    uniform = {layer.name: layer.asked for pool in pools for layer in pool.layers}
    shares = dict(uniform)
    running: dict[str, float] = {}
    visited: list[dict[str, float]] = []
    details["steps"] = []
    with bar("Measuring layers", steps) as progress:
        for step in range(steps):
            turn = range(step * a_step, step * a_step + min(a_step, len(outputs.batches)))
            indices = [index % len(outputs.batches) for index in turn]
            distance, found = slopes(outputs, trial, shares, indices, reach)
            details["steps"].append(distance)
            running = {n: FORGET * running.get(n, f) + (1 - FORGET) * f for n, f in found.items()}
            for pool in pools:
                shares |= _move(pool, shares, running, rate * (1 - step / steps))
            if step >= steps // 2:
                visited.append(dict(shares))
            progress.advance()
    mean = (
        {name: sum(each[name] for each in visited) / len(visited) for name in shares} if visited else shares
    )
    patterns: dict[str, Pattern] = {}
    plain: dict[str, Pattern] = {}
    for pool in pools:
        patterns |= fit(pool, mean, scope)
        plain |= fit(pool, uniform, scope)
    distances = []
    for candidate in (plain, patterns):
        trial.put(candidate)
        distances.append(outputs.mean_distance())
    details |= {"uniform": distances[0], "auto": min(distances)}
    return patterns if distances[1] <= distances[0] else plain


def _move(
    pool: Pool, shares: Mapping[str, float], slope: Mapping[str, float], rate: float
) -> dict[str, float]:
    """Each layer's share moved by −rate·ln(its slope per unit of cost / the mean), within the budget.

    What a zero costs grows about exponentially with sparsity, so its logarithm says how far there is to go.
    """
    price = {layer.name: slope[layer.name] / layer.cost for layer in pool.layers}
    mean = sum(layer.size * abs(price[layer.name]) for layer in pool.layers) / pool.size
    if not mean > 0:
        return {layer.name: shares[layer.name] for layer in pool.layers}
    least = math.exp(-MOST)

    def excess(name: str) -> float:
        return min(MOST, math.log(max(price[name] / mean, least)))

    moved = {layer.name: shares[layer.name] - rate * excess(layer.name) for layer in pool.layers}
    return shift_to_budget(pool, moved, 0.0, max(HIGHEST, pool.sparsity))
