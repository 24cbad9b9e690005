"""The plan of a prune recipe: measured, or a pattern for each tower."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ressa.allocation import Allocation, allocate, batching, per_tower, read_plan, write_plan
from ressa.anatomy import Anatomy
from ressa.checkpoint import Vlm
from ressa.data import Sample, batch_size_for, batches
from ressa.files import read_json
from ressa.methods import get_method
from ressa.recipe import DENSE, PruneRecipe
from ressa.sparsity import Pattern, Plan, Unstructured, parse_pattern

_POSITIONS = (
    2048  # at a time, where gradients are measured: all that the model makes of them is kept for a while
)


def patterns(recipe: PruneRecipe) -> dict[str, Pattern | None]:
    """Tower → its pattern, None where it stays dense."""
    scope = get_method(recipe.method).scope
    return {
        tower: None if text == DENSE else parse_pattern(text, scope=scope)
        for tower, text in recipe.towers().items()
    }


def layers_to_prune(recipe: PruneRecipe, anatomy: Anatomy, given: Plan | None) -> list[str]:
    """The layers that get a pattern: those of a given plan, or of the towers that are not dense."""
    if given is not None:
        return list(given)
    return [name for tower, pattern in patterns(recipe).items() if pattern for name in anatomy.linears(tower)]


def measures(recipe: PruneRecipe) -> bool:
    """Whether something is measured on the whole model before it is pruned."""
    return recipe.allocation != "uniform" or recipe.scope == "global" or recipe.statistics_of == "dense"


def batch_size_of(
    recipe: PruneRecipe, vlm: Vlm, samples: Sequence[Sample], device: torch.device, *positions: int
) -> int:
    """How many samples run at a time; positions: how many they come to, where the recipe does not say."""
    if recipe.batch_size != "auto":
        return recipe.batch_size
    return batch_size_for(vlm, samples, device, *positions)


def allocation_of(
    recipe: PruneRecipe,
    vlm: Vlm,
    anatomy: Anatomy,
    samples: Sequence[Sample],
    device: torch.device,
    note: Path,
) -> Allocation:
    """The plan to carry out. One that took measuring is kept in `note` for a run that is cut short."""
    asked, scope = patterns(recipe), get_method(recipe.method).scope
    if recipe.allocation == "uniform":
        return Allocation("uniform", per_tower(anatomy, vlm.model, asked), 0.0)
    if (made := read_json(note)) is not None:
        return Allocation(recipe.allocation, read_plan(note), made["seconds"], made["details"])
    options: dict[str, Any] = {"unit": recipe.unit} if recipe.allocation == "auto" else {}
    if recipe.margin is not None:
        options["margin"] = recipe.margin
    if recipe.block_scores is not None:
        options["form"] = recipe.block_scores
    if recipe.choices is not None:
        options["choices"] = [parse_pattern(text, scope=scope) for text in recipe.choices.split(",")]
    number, size = batching(
        recipe.allocation, len(samples), batch_size_of(recipe, vlm, samples, device, _POSITIONS)
    )
    allocation = allocate(
        recipe.allocation,
        vlm.model,
        batches(vlm, samples[:number], size),
        {tower: pattern.sparsity for tower, pattern in asked.items() if pattern is not None},
        anatomy=anatomy,
        joint=recipe.budget == "joint",
        scope=scope,
        seed=recipe.seed,
        device=device,
        **options,
    )
    allocation = replace(allocation, plan=_compared_as_asked(allocation.plan, asked, anatomy))
    write_plan(note, allocation)
    return allocation


def _compared_as_asked(plan: Plan, asked: Mapping[str, Pattern | None], anatomy: Anatomy) -> Plan:
    """The plan with the scope of each tower's own pattern, which the allocation does not look at."""

    def scoped(name: str, pattern: Pattern) -> Pattern:
        own = asked.get(anatomy.tower_of(name))
        if isinstance(pattern, Unstructured) and isinstance(own, Unstructured):
            return Unstructured(pattern.sparsity, own.scope)
        return pattern

    return Plan({name: scoped(name, pattern) for name, pattern in plan.items()})
