"""The simplest allocation: every linear of a tower gets the tower's pattern; a plan from what a person writes."""

from collections.abc import Mapping

from torch import nn

from ressa.anatomy import TOWERS, Anatomy
from ressa.errors import UsageError
from ressa.fused import splitted
from ressa.sparsity import NM, Pattern, Plan, Scope, Unstructured, parse_pattern

DENSE = "dense"
OnePattern = Pattern | str | float
Asked = OnePattern | Mapping[str, OnePattern | None]
"""A pattern such as "2:4" or 0.5 for the vision and the language tower, or one for each tower or layer named (None or
"dense" for none); a `Plan` is the latter."""


def make_plan(asked: Asked, anatomy: Anatomy, model: nn.Module, *, scope: Scope = "row") -> Plan:
    """The plan that a person asks for. scope: of shares of zeros that name none.

    Raises UsageError for what is no pattern, a pattern that does not fit, or a name that is neither a tower's
    nor a layer's.
    """
    if isinstance(asked, Plan):
        return asked
    if not isinstance(asked, Mapping):
        asked = dict.fromkeys((tower for tower in ("vision", "language") if tower in anatomy.towers), asked)
    patterns = {name: _pattern(each, scope) for name, each in asked.items()}
    if patterns.keys() <= set(TOWERS):
        return per_tower(anatomy, model, patterns)
    layers = set(anatomy.linears())
    if strange := [name for name in patterns if name not in layers]:
        raise UsageError(
            f"'{strange[0]}' is neither a tower ({', '.join(TOWERS)}) nor a layer of this model: name one."
        )
    return Plan({name: pattern for name, pattern in patterns.items() if pattern is not None})


def _pattern(asked: OnePattern | None, scope: Scope) -> Pattern | None:
    if asked is None or asked == DENSE:
        return None
    return asked if isinstance(asked, NM | Unstructured) else parse_pattern(asked, scope=scope)


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
    made = Plan(plan)
    with splitted(model):
        modules = dict(model.named_modules())
        made.check({name: modules[name].weight.shape for name in plan})
    return made
