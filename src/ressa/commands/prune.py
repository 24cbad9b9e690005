"""`ressa prune`: load, draw calibration samples, plan, prune, save."""

from typing import Any

from ressa.allocation import read_plan
from ressa.checkpoint import Manifest, find, lasting_name
from ressa.commands.inputs import draw_samples, find_dtype, fingerprint_samples, fitting
from ressa.commands.outcome import Outcome
from ressa.commands.target import finished, one_at_a_time, refuse_overlap, work_folder
from ressa.provenance import versions
from ressa.recipe import PruneRecipe
from ressa.report import manifest_table


@one_at_a_time
def run_prune(recipe: PruneRecipe, *, force: bool = False) -> Outcome:
    """Prune as the recipe says, into a folder; a finished result of the same recipe is left as it is."""
    refuse_overlap(recipe.output, recipe.model, recipe.calibration, recipe.plan)
    identity = recipe.identity()
    manifest = finished(recipe.output, identity, force=force)
    if manifest is not None:
        return _outcome(recipe, manifest, f"{recipe.output} held this result already.")
    find(recipe.model)
    given = None if recipe.plan is None else read_plan(recipe.plan)
    samples = draw_samples(
        recipe.calibration,
        recipe.split,
        recipe.samples,
        recipe.mixture,
        recipe.seed,
        on_bad=recipe.on_bad_sample,
        follow_links=recipe.follow_links,
    )
    # What is wrong up to here is told before PyTorch is imported.
    from ressa.allocation import Allocation
    from ressa.anatomy import find_anatomy
    from ressa.checkpoint import load, save, size_of
    from ressa.commands.planning import allocation_of
    from ressa.data import batches
    from ressa.device import find_device
    from ressa.fast_dtype import in_fast_dtype
    from ressa.pruning import prune

    device = find_device(recipe.device)
    vlm = load(recipe.model, dtype=find_dtype(recipe.dtype))
    anatomy = find_anatomy(vlm.model)
    samples = fitting(samples, vlm, recipe.on_bad_sample)
    inputs = batches(vlm, samples, recipe.batch_size)
    calibration = {
        "name": recipe.calibration,
        "split": recipe.split,
        "samples": len(samples),
        "fingerprint": fingerprint_samples(samples),
    }
    begun = {**identity, "calibrated": calibration, "given": given and given.to_dict()}
    room = 2 * size_of(vlm.model)  # finished blocks and the result
    with work_folder(recipe.output, begun, force=force, room=room) as work:
        with in_fast_dtype(vlm.model, device=device, asked=recipe.dtype) as computed_in:
            if given is not None:
                allocation = Allocation("given", given, 0.0)
            else:
                allocation = allocation_of(recipe, vlm, anatomy, samples, device, work / "allocation.json")
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
                keep_zeros=recipe.keep_zeros,
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
            source=lasting_name(recipe.model),
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


def _outcome(recipe: PruneRecipe, manifest: Manifest, line: str) -> Outcome:
    data = {"output": str(recipe.output), **manifest.model_dump(mode="json")}
    saved = data["allocation"].get("saved", {})
    said = " and ".join(f"{share:.2%} of the {unit}" for unit, share in saved.items())
    lines = [f"Of the towers that are pruned, {said} are saved."] if saved else []
    return Outcome(data, [manifest_table(data, f"{recipe.model}, pruned by {recipe.method}")], [*lines, line])
