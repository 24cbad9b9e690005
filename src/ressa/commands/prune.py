"""`ressa prune`: load, draw calibration samples, plan, prune, save."""

from functools import partial
from typing import Any

from ressa.allocation import read_plan
from ressa.checkpoint import Manifest, descent, find, lasting_name
from ressa.commands.inputs import draw_samples, find_dtype, fingerprint_samples, fitting, whence
from ressa.commands.outcome import Outcome
from ressa.commands.target import finished, one_at_a_time, refuse_overlap, work_folder
from ressa.data.crops import cropped_all
from ressa.data.folder import CALIBRATED
from ressa.errors import UsageError
from ressa.processes import from_first, is_first, meet
from ressa.provenance import versions
from ressa.recipe import PruneRecipe
from ressa.recipe.sources import folders_of, sources_in_words
from ressa.recipe.text import AUTO, ENGLISH, OWN
from ressa.report import manifest_table
from ressa.stopwatch import Stopwatch, where_it_went


@one_at_a_time
def run_prune(recipe: PruneRecipe, *, force: bool = False) -> Outcome:
    """Prune as the recipe says, into a folder; a finished result of the same recipe is left as it is."""
    refuse_overlap(recipe.output, recipe.model, *folders_of(recipe.calibration), recipe.plan)
    identity = recipe.identity()
    manifest = finished(recipe.output, identity, recipe.model, force=force)
    if manifest is not None:
        return _outcome(recipe, manifest, f"{recipe.output} held this result already.")
    find(recipe.model)
    given = None if recipe.plan is None else read_plan(recipe.plan)
    watch = Stopwatch()
    draw = partial(
        draw_samples,
        recipe.calibration,
        recipe.split,
        recipe.samples,
        seed=recipe.seed,
        order=CALIBRATED,
        on_bad=recipe.on_bad_sample,
        follow_links=recipe.follow_links,
    )
    with watch.on("samples"):
        samples = draw(recipe.mixture)
    # What is wrong up to here is told before PyTorch is imported.
    from ressa.allocation import Allocation
    from ressa.anatomy import find_anatomy
    from ressa.checkpoint import load, place_weights, save, save_packed, size_of
    from ressa.commands.planning import allocation_of, batch_size_of, layers_to_prune, measures
    from ressa.commands.texts import texts_for
    from ressa.data import batches
    from ressa.device import find_device
    from ressa.fast_dtype import in_fast_dtype, is_slow
    from ressa.methods import get_method
    from ressa.pruning import prune

    device = find_device(recipe.device)
    meet(device)
    with watch.on("load"):
        vlm = load(recipe.model, dtype=find_dtype(recipe.dtype), unpack=True)
    widens = recipe.dtype == "auto" and is_slow(vlm.model, device)
    anatomy = find_anatomy(vlm.model)
    with watch.on("samples"):
        samples = fitting(samples, vlm, recipe.on_bad_sample, recipe.mixture, draw)
        if recipe.crops:
            samples = cropped_all(samples, recipe.seed)
        told = set(layers_to_prune(recipe, anatomy, given))
        if told & set(anatomy.linears("language")) and not any(sample.target for sample in samples):
            raise UsageError(
                f"{sources_in_words(recipe.calibration)} has pictures without texts, and so the language tower cannot "
                "be calibrated: give captions or class names, or leave it dense (--language dense)."
            )
        inputs = batches(vlm, samples, batch_size_of(recipe, vlm, samples, device))
        calibration = {
            **whence(recipe.calibration, recipe.mixture, recipe.samples, samples),
            "fingerprint": fingerprint_samples(samples),
        }
    begun = {**identity, "calibrated": calibration, "given": given and given.to_dict()}
    updates = get_method(recipe.method).updates_weights
    # The result, finished blocks where they do not stay (as wide as they are computed), a packed one's plain form.
    room = size_of(vlm.model) * (1 + updates * (2 if widens else 1) + recipe.packed)
    with work_folder(recipe.output, begun, force=force, room=room) as work:
        meet(device)  # before anyone looks into the work folder
        with watch.on("load"):
            streamed = place_weights(
                vlm,
                layers_to_prune(recipe, anatomy, given),
                device,
                work,
                stream=False if measures(recipe) else recipe.stream,
                widens=widens,
                updates=updates,
            )
        stored_in = vlm.model.dtype
        # Weights on disk are widened when they are read.
        asked = recipe.dtype if streamed is None or streamed.resident else "as stored"
        with in_fast_dtype(vlm.model, device=device, asked=asked) as computed_in:
            with watch.on("samples"):
                if recipe.text == OWN and streamed is not None and not streamed.resident:
                    raise UsageError(
                        "A model whose weights stay on disk would write text for hours: give --text a text file."
                    )
                if texts := texts_for(recipe, vlm, device, work, samples):
                    inputs += batches(vlm, texts, batch_size_of(recipe, vlm, texts, device))
                    calibration["text"] = {
                        "name": ENGLISH if recipe.text == AUTO else recipe.text,
                        "samples": len(texts),
                        "fingerprint": fingerprint_samples(texts),
                    }
            if given is not None:
                allocation = Allocation("given", given, 0.0)
            else:
                with watch.on("allocate"):
                    allocation = allocation_of(
                        recipe, vlm, anatomy, samples, device, work / "allocation.json"
                    )
            result = prune(
                vlm.model,
                inputs,
                plan=from_first(allocation.plan, device),
                method=recipe.method,
                anatomy=anatomy,
                seed=recipe.seed,
                device=device,
                work_dir=work,
                options=recipe.options,
                scope=recipe.scope,
                tokens=recipe.tokens,
                alpha=recipe.alpha,
                statistics_of=recipe.statistics_of,
                keep_zeros=recipe.keep_zeros,
                stored_in=stored_in if widens else None,
                streamed=streamed,
                force=force,
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
            besides=recipe.besides(),
            **descent(recipe.model),
            seed=recipe.seed,
            calibration=calibration,
            versions=versions(),
            plan=result.plan.to_dict(),
            seconds=round(result.seconds, 1),
            spent={**watch.rounded(), **result.spent},
            computed_in="float32" if widens else computed_in,
            **made,
        )
        if is_first():
            store = partial(save_packed, work=work / "plain") if recipe.packed else save
            manifest = store(recipe.output, vlm, manifest=manifest, masks=result.masks, streamed=streamed)
        meet(device)
    return _outcome(recipe, manifest, f"The pruned model is in {recipe.output}.")


def _outcome(recipe: PruneRecipe, manifest: Manifest, line: str) -> Outcome:
    data = {"output": str(recipe.output), **manifest.model_dump(mode="json")}
    saved = data["allocation"].get("saved", {})
    said = " and ".join(f"{share:.2%} of the {unit}" for unit, share in saved.items())
    lines = [f"Of the towers that are pruned, {said} are saved."] if saved else []
    lines.append(where_it_went(manifest.spent))
    return Outcome(data, [manifest_table(data, f"{recipe.model}, pruned by {recipe.method}")], [*lines, line])
