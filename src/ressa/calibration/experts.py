"""Experts that few of the calibration tokens were routed to are judged by what all of their layer were given."""

import copy
from collections.abc import Mapping, MutableMapping

from torch import nn

from ressa.calibration.statistics import Statistics
from ressa.fused import SplitExperts

FEW = 32
"""Tokens; an expert that saw fewer is pruned by those of its whole layer."""


def expert_groups(model: nn.Module, prefix: str = "") -> dict[str, str]:
    """Layer → the name that it shares with the same linear of the layer's other experts, such as
    `…mlp.experts.*.down_proj`; only of experts.

    model: a model whose fused weights are split, or the part of one that is called `prefix`.
    """
    found: dict[str, str] = {}
    for name, module in model.named_modules(prefix=prefix):
        if isinstance(module, SplitExperts):
            for linear in module.linears():
                _, _, own = linear.partition(".")
                found[f"{name}.{linear}"] = f"{name}.*.{own}"
    return found


def pool_few(statistics: MutableMapping[str, Statistics], groups: Mapping[str, str]) -> list[str]:
    """Give experts that saw fewer than `FEW` tokens the sum of what their layer's experts saw; their layers' names.

    statistics: layer → what was gathered of its inputs, already summed over processes; changed in place. A token
    counts once for each expert it went to. Layers whose experts saw nothing at all keep their empty statistics.
    """
    members: dict[str, list[str]] = {}
    for name in statistics:
        if name in groups:
            members.setdefault(groups[name], []).append(name)
    pooled: dict[tuple[int, ...], Statistics] = {}  # gate and up projections share their statistics
    fallen: list[str] = []
    for names in members.values():
        few = [name for name in names if statistics[name].count < FEW]
        seen = [statistics[name] for name in names]
        if not few or not any(each.count for each in seen):
            continue
        key = tuple(map(id, seen))
        if key not in pooled:
            everyone = copy.deepcopy(seen[0])
            for each in seen[1:]:
                everyone.merge(each)
            pooled[key] = everyone
        statistics.update(dict.fromkeys(few, pooled[key]))
        fallen += few
    return fallen


def few_tokens(fallen: int, experts: int) -> str:
    """What is said of experts that fell back."""
    return (
        f"{fallen} of {experts} experts' layers were given fewer than {FEW} calibration tokens: they are pruned by "
        "the tokens of all experts of their layer; more samples would give them their own."
    )
