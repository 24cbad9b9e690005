"""Choosing one of several patterns for each group so that a budget is met at least total loss."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ressa.errors import UsageError

UNITS = 50_000
SLACK = 1e-9  # sums of the same savings in another order may differ by this share


@dataclass(frozen=True)
class Choice:
    """One pattern a group could get: what it saves and what it is expected to cost in loss."""

    label: str
    saves: float
    loss: float


def choose(groups: Mapping[str, Sequence[Choice]], target: float) -> dict[str, Choice]:
    """Group → choice: the least sum of losses among those that save at least `target` (multiple-choice
    knapsack, solved exactly by dynamic programming over what is saved).

    Savings are counted in their greatest common divisor, or, where that would take more than `UNITS` steps or
    they are no whole numbers, in target/UNITS rounded down: the budget is met in any case.
    Raises UsageError if even the most saving choices do not meet it.
    """
    most = sum(max(choice.saves for choice in choices) for choices in groups.values())
    if most < target * (1 - SLACK):
        raise UsageError(
            f"The patterns to choose from save {most:.0f} at most and {target:.0f} are asked for: "
            "offer a sparser one."
        )
    unit = _unit([choice.saves for choices in groups.values() for choice in choices], target)
    goal = math.ceil(target / unit - 1e-9)
    best = np.full(goal + 1, np.inf)  # best[u]: least loss of the groups so far that save at least u units
    best[0] = 0.0
    picks: list[np.ndarray] = []
    for choices in groups.values():
        # What saves beyond the goal counts as the goal, so every state stays within the table.
        tables = np.stack([_after(best, math.floor(c.saves / unit + 1e-9), c.loss) for c in choices])
        picks.append(tables.argmin(0))
        best = tables.min(0)
    if not np.isfinite(best[goal]):  # rounding down lost the last bit: nothing but the most saving will do
        return {name: max(choices, key=lambda c: (c.saves, -c.loss)) for name, choices in groups.items()}
    chosen: dict[str, Choice] = {}
    left = goal
    for (name, choices), pick in zip(list(groups.items())[::-1], picks[::-1], strict=True):
        chosen[name] = choices[pick[left]]
        left = max(0, left - math.floor(chosen[name].saves / unit + 1e-9))
    return {name: chosen[name] for name in groups}


def _after(best: np.ndarray, saves: int, loss: float) -> np.ndarray:
    """The table when the next group takes a choice: to save u, the others need to save max(0, u − saves)."""
    needed = np.maximum(0, np.arange(len(best)) - saves)
    return best[needed] + loss


def _unit(savings: Sequence[float], target: float) -> float:
    if all(float(value).is_integer() for value in savings):
        divisor = math.gcd(*(int(value) for value in savings)) or 1
        if target / divisor <= UNITS:
            return float(divisor)
    return max(target, 1e-12) / UNITS
