"""Which of a few patterns each block gets, from measured effects."""

from collections.abc import Mapping, Sequence
from typing import Any

from ressa.allocation.budget import Layer, Pool
from ressa.allocation.outputs import Outputs
from ressa.allocation.solve import SLACK, Choice, choose
from ressa.allocation.trial import Trial
from ressa.errors import UsageError
from ressa.progress import bar
from ressa.sparsity import Pattern, Unstructured

DENSE: Pattern = Unstructured(0.0)


def best_choices(
    outputs: Outputs,
    trial: Trial,
    pools: Sequence[Pool],
    choices: Sequence[Pattern],
    rounds: int,
    details: dict[str, Any],
) -> dict[str, Pattern]:
    """Layer → pattern. Effects are measured by changing one group at a time in the current plan, which is at
    first the uniform one of the choice that just meets the budget; the best plan seen is returned."""
    groups = {name: layers for pool in pools for name, layers in pool.groups().items()}
    offered = {name: _fitting(layers, choices) for name, layers in groups.items()}
    for pool in pools:
        _refuse_too_little(pool, offered)
    current = {name: pattern for pool in pools for name, pattern in _uniform(pool, offered).items()}
    tried = sum(len(patterns) - 1 for patterns in offered.values())
    seen: list[tuple[float, dict[str, Pattern]]] = []
    with bar("Measuring choices", rounds * tried) as progress:
        for _ in range(rounds):
            base = _measure(outputs, trial, groups, current)
            seen.append((base, current))
            curves: dict[str, list[Choice]] = {}
            for name, patterns in offered.items():
                curves[name] = []
                for pattern in patterns:
                    effect = 0.0
                    if pattern != current[name]:
                        effect = _measure(outputs, trial, groups, {**current, name: pattern}) - base
                        progress.advance()
                    curves[name].append(Choice(str(pattern), _saves(groups[name], pattern), effect))
            solved: dict[str, Pattern] = {}
            for pool in pools:
                picked = choose({name: curves[name] for name in pool.groups()}, pool.zeros)
                for name, choice in picked.items():
                    solved[name] = next(p for p in offered[name] if str(p) == choice.label)
            details.setdefault("curves", []).append(
                {name: {c.label: c.loss for c in curve} for name, curve in curves.items()}
            )
            if solved == current:
                break
            current = solved
    seen.append((_measure(outputs, trial, groups, current), current))
    distance, best = min(seen, key=lambda pair: pair[0])
    details |= {"uniform": seen[0][0], "auto": distance}
    return {layer.name: best[name] for name, layers in groups.items() for layer in layers}


def _fitting(layers: Sequence[Layer], choices: Sequence[Pattern]) -> list[Pattern]:
    """Dense and those patterns that every layer of a group can have."""
    fitting: list[Pattern] = [DENSE]
    for pattern in choices:
        try:
            for layer in layers:
                pattern.check_shape((layer.rows, layer.width))
        except UsageError:
            continue
        if pattern not in fitting:
            fitting.append(pattern)
    return fitting


def _refuse_too_little(pool: Pool, offered: Mapping[str, Sequence[Pattern]]) -> None:
    """Raises UsageError if even the sparsest of what is offered does not save what is asked for."""
    most = sum(max(_saves(layers, p) for p in offered[name]) for name, layers in pool.groups().items())
    if most < pool.zeros * (1 - SLACK):
        raise UsageError(
            f"The patterns to choose from save {most / pool.size:.1%} at most and {pool.sparsity:.1%} are asked "
            "for: offer a sparser one."
        )


def _uniform(pool: Pool, offered: Mapping[str, Sequence[Pattern]]) -> dict[str, Pattern]:
    """Every group's least sparse choice that meets the share asked for its tower, else its sparsest."""
    plan: dict[str, Pattern] = {}
    for name, layers in pool.groups().items():
        enough = [p for p in offered[name] if p.sparsity >= layers[0].asked - 1e-9]
        plan[name] = (
            min(enough, key=lambda p: p.sparsity) if enough else max(offered[name], key=lambda p: p.sparsity)
        )
    return plan


def _saves(layers: Sequence[Layer], pattern: Pattern) -> float:
    return sum(pattern.zeros((layer.rows, layer.width)) * layer.cost for layer in layers)


def _measure(
    outputs: Outputs,
    trial: Trial,
    groups: Mapping[str, Sequence[Layer]],
    plan: Mapping[str, Pattern],
) -> float:
    trial.put({layer.name: plan[name] for name, layers in groups.items() for layer in layers})
    return outputs.mean_distance()
