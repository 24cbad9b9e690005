"""`ressa prune`: load, draw calibration samples, plan, prune, save."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ressa.allocation import Allocation, allocate, batching, per_tower, read_plan, write_plan
from ressa.anatomy import Anatomy, find_anatomy
from ressa.checkpoint import Manifest, Vlm, load, save
from ressa.commands.inputs import draw_samples, find_dtype, fingerprint_samples
from ressa.commands.outcome import Outcome
from ressa.commands.target import finished, refuse_overlap, work_folder
from ressa.data import Sample, batches
from ressa.device import find_device
from ressa.fast_dtype import in_fast_dtype
from ressa.methods import get_method
from ressa.provenance import versions
from ressa.pruning import prune
from ressa.recipe import DENSE, PruneRecipe
from ressa.report import manifest_table
from ressa.sparsity import Pattern, parse_pattern


def run_prune(recipe: PruneRecipe, *, force: bool = False) -> Outcome:
    """Prune as the recipe says, into a folder; a finished result of the same recipe is left as it is."""
    refuse_overlap(recipe.output, recipe.model, recipe.calibration, recipe.plan)
    identity = recipe.identity()
    manifest = finished(recipe.output, identity, force=force)
    if manifest is not None:
        return _outcome(recipe, manifest, f"{recipe.output} held this result already.")
    given = None if recipe.plan is None else read_plan(recipe.plan)
    device = find_device(recipe.device)
    samples = draw_samples(recipe.calibration, recipe.split, recipe.samples, recipe.mixture, recipe.seed)
    vlm = load(recipe.model, dtype=find_dtype(recipe.dtype))
    anatomy = find_anatomy(vlm.model)
    inputs = batches(vlm, samples, recipe.batch_size)
    calibration = {
        "name": recipe.calibration,
        "split": recipe.split,
        "samples": len(samples),
        "fingerprint": fingerprint_samples(samples),
    }
    begun = {**identity, "calibrated": calibration, "given": given and given.to_dict()}
    with work_folder(recipe.output, begun, force=force) as work:
        with in_fast_dtype(vlm.model, device=device, asked=recipe.dtype) as computed_in:
            if given is not None:
                allocation = Allocation("given", given, 0.0)
            else:
                allocation = _allocation(recipe, vlm, anatomy, samples, device, work / "allocation.json")
            result = prune(
                vlm.model,
                inputs,
                plan=allocation.plan,
                method=recipe.method,
                anatomy=anatomy,
                seed=recipe.seed,
                device=device,
                work_dir=work,
                options=recipe.options,
                scope=recipe.scope,
                tokens=recipe.tokens,
                alpha=recipe.alpha,
            )
        made: dict[str, Any] = {
            "allocation": {
                "name": allocation.name,
                "seconds": round(allocation.seconds, 1),
                **allocation.details,
            }
        }
        manifest = Manifest(
            kind="pruned",
            source=recipe.model,
            recipe=identity,
            seed=recipe.seed,
            calibration=calibration,
            versions=versions(),
            plan=result.plan.to_dict(),
            seconds=round(result.seconds, 1),
            computed_in=computed_in,
            **made,
        )
        manifest = save(recipe.output, vlm, manifest=manifest, masks=result.masks)
    return _outcome(recipe, manifest, f"The pruned model is in {recipe.output}.")


def patterns(recipe: PruneRecipe) -> dict[str, Pattern | None]:
    """Tower → its pattern, None where it stays dense."""
    scope = get_method(recipe.method).scope
    return {
        tower: None if text == DENSE else parse_pattern(text, scope=scope)
        for tower, text in recipe.towers().items()
    }


def _allocation(
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
    if note.is_file():
        made = json.loads(note.read_text(encoding="utf-8"))
        return Allocation(recipe.allocation, read_plan(note), made["seconds"], made["details"])
    options: dict[str, Any] = {"unit": recipe.unit} if recipe.allocation == "auto" else {}
    if recipe.choices is not None:
        options["choices"] = [parse_pattern(text, scope=scope) for text in recipe.choices.split(",")]
    number, size = batching(recipe.allocation, len(samples), recipe.batch_size)
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
    write_plan(note, allocation)
    return allocation


def _outcome(recipe: PruneRecipe, manifest: Manifest, line: str) -> Outcome:
    data = {"output": str(recipe.output), **manifest.model_dump(mode="json")}
    saved = data["allocation"].get("saved", {})
    said = " and ".join(f"{share:.2%} of the {unit}" for unit, share in saved.items())
    lines = [f"Of the towers that are pruned, {said} are saved."] if saved else []
    return Outcome(data, [manifest_table(data, f"{recipe.model}, pruned by {recipe.method}")], [*lines, line])
