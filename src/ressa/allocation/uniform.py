"""The simplest allocation: every linear of a tower gets the tower's pattern."""

from collections.abc import Mapping

from torch import nn

from ressa.anatomy import TOWERS, Anatomy
from ressa.errors import UsageError
from ressa.sparsity import Pattern, Plan


def per_tower(anatomy: Anatomy, model: nn.Module, patterns: Mapping[str, Pattern | None]) -> Plan:
    """A plan that gives each tower's linears one pattern; a tower with None, or none named, stays dense.

    patterns: vision, connector or language → pattern. Raises UsageError for a tower that the model does not
    have, for a pattern that does not fit a layer (naming it), and if all towers stay dense.
    """
    plan: dict[str, Pattern] = {}
    for tower, pattern in patterns.items():
        if tower not in TOWERS:
            raise UsageError(f"There is no tower '{tower}': choose from {', '.join(TOWERS)}.")
        if pattern is None:
            continue
        if tower not in anatomy.towers:
            raise UsageError(f"{type(model).__name__} has no {tower} with linear layers: leave it dense.")
        plan |= dict.fromkeys(anatomy.linears(tower), pattern)
    if not plan:
        raise UsageError("Every tower is to stay dense, so there is nothing to prune: give one a pattern.")
    modules = dict(model.named_modules())
    made = Plan(plan)
    made.check({name: modules[name].weight.shape for name in plan})
    return made
