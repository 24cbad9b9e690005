"""`ressa prune`: load, draw calibration samples, plan, prune, save."""

from collections.abc import Sequence

from torch import Tensor

from ressa.allocation.uniform import per_tower
from ressa.anatomy import find_anatomy
from ressa.checkpoint import Manifest, Vlm, load, save
from ressa.commands.inputs import draw_samples, find_device, find_dtype, fingerprint_samples
from ressa.commands.outcome import Outcome
from ressa.commands.target import finished, work_folder
from ressa.data import Batcher, Sample
from ressa.methods import get_method
from ressa.provenance import versions
from ressa.prune import prune
from ressa.recipe import DENSE, PruneRecipe
from ressa.report import manifest_table
from ressa.sparsity import Pattern, parse_pattern


def run_prune(recipe: PruneRecipe, *, force: bool = False) -> Outcome:
    """Prune as the recipe says, into a folder; a finished result of the same recipe is left as it is."""
    identity = recipe.identity()
    manifest = finished(recipe.output, identity, force=force)
    if manifest is not None:
        return _outcome(recipe, manifest, f"{recipe.output} held this result already.")
    device = find_device(recipe.device)
    samples = draw_samples(recipe.calibration, recipe.split, recipe.samples, recipe.mixture, recipe.seed)
    vlm = load(recipe.model, dtype=find_dtype(recipe.dtype))
    anatomy = find_anatomy(vlm.model)
    plan = per_tower(anatomy, vlm.model, patterns(recipe))
    inputs = batches(vlm, samples, recipe.batch_size)
    calibration = {
        "name": recipe.calibration,
        "split": recipe.split,
        "samples": len(samples),
        "fingerprint": fingerprint_samples(samples),
    }
    with work_folder(recipe.output, {**identity, "calibrated": calibration}, force=force) as work:
        result = prune(
            vlm.model,
            inputs,
            plan=plan,
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
        manifest = Manifest(
            kind="pruned",
            source=recipe.model,
            recipe=identity,
            seed=recipe.seed,
            calibration=calibration,
            versions=versions(),
            plan=result.plan.to_dict(),
            seconds=round(result.seconds, 1),
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


def batches(vlm: Vlm, samples: Sequence[Sample], size: int) -> list[dict[str, Tensor]]:
    """Calibration inputs: prompts with their targets, so that both halves of the language tower see text."""
    batcher = Batcher(vlm.processor, vlm.model.config)
    return [batcher.training(samples[start : start + size]) for start in range(0, len(samples), size)]


def _outcome(recipe: PruneRecipe, manifest: Manifest, line: str) -> Outcome:
    data = {"output": str(recipe.output), **manifest.model_dump(mode="json")}
    return Outcome(data, [manifest_table(data, f"{recipe.model}, pruned by {recipe.method}")], [line])
