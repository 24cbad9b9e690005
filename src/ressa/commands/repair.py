"""`ressa repair`: load both models, draw training samples, train, save."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ressa.checkpoint import Manifest, descent, find, lasting_name, read_manifest
from ressa.commands.inputs import draw_samples, find_dtype, fingerprint_of_names, fitting, whence
from ressa.commands.outcome import Outcome
from ressa.commands.target import finished, one_at_a_time, refuse_overlap, work_folder
from ressa.errors import UsageError
from ressa.processes import is_first, meet
from ressa.provenance import fingerprint, versions
from ressa.recipe import RepairRecipe
from ressa.recipe.sources import folders_of
from ressa.repairing.trackers import check_trackers
from ressa.report import manifest_table
from ressa.stopwatch import Stopwatch, where_it_went
from ressa.warned import recorded

if TYPE_CHECKING:
    import torch

    from ressa.repairing import RepairConfig
    from ressa.sparsity import PackedMasks


@one_at_a_time
def run_repair(recipe: RepairRecipe, *, force: bool = False) -> Outcome:
    """Repair as the recipe says, into a folder; a finished result of the same recipe is left as it is."""
    pruned = read_manifest(recipe.model)
    refuse_overlap(recipe.output, recipe.model, recipe.dense or pruned.source, *folders_of(recipe.data))
    # The same recipe on a folder that was pruned anew since is another repair.
    parent = fingerprint([json.dumps([pruned.recipe, pruned.plan, pruned.versions], sort_keys=True)])
    identity = {**recipe.identity(), "parent": parent}
    manifest = finished(recipe.output, identity, recipe.model, force=force)
    if manifest is not None:
        return _outcome(recipe, manifest, f"{recipe.output} held this result already.")
    config = recipe.config()
    check_trackers(config.report_to)
    find(recipe.model)
    if config.needs_teacher:
        _find_dense(recipe, pruned)
    draw = partial(
        draw_samples,
        recipe.data,
        recipe.split,
        recipe.samples,
        seed=recipe.seed,
        on_bad=recipe.on_bad_sample,
        follow_links=recipe.follow_links,
    )
    samples = draw(recipe.mixture)
    # What is wrong up to here is told before PyTorch is imported.
    from ressa.checkpoint import check_fits, load, read_masks, save, save_packed, size_of
    from ressa.commands.texts import mixed, texts_for
    from ressa.fast_dtype import in_fast_dtype
    from ressa.repairing import repair
    from ressa.repairing.training import training_device
    from ressa.sparsity import PackedMasks

    device = training_device(config)
    masks = read_masks(recipe.model)
    dtype = find_dtype(recipe.dtype)
    watch = Stopwatch()
    with watch.on("load"):
        vlm = load(recipe.model, dtype=dtype, unpack=True)
        check_fits(vlm.model, pruned.plan, masks)
        dense = (
            load(recipe.dense or pruned.source, dtype=dtype, unpack=True) if config.needs_teacher else None
        )
    with watch.on("samples"):
        samples = drawn = fitting(samples, vlm, recipe.on_bad_sample, recipe.mixture, draw)
    room = _room(vlm.model, masks, config, device) + recipe.packed * size_of(vlm.model)
    with work_folder(recipe.output, identity, force=force, room=room) as work:
        meet(device)  # before anyone looks into the work folder
        models = (vlm.model,) if dense is None else (vlm.model, dense.model)
        with (
            recorded() as said,
            in_fast_dtype(*models, device=device, asked=recipe.dtype, trains=True) as computed_in,
        ):
            if recipe.text is not None:
                with watch.on("texts"):
                    texts = texts_for(recipe, vlm if dense is None else dense, device, work, samples)
                    samples = mixed(samples, texts, recipe.text_share, recipe.seed)
            result = repair(vlm, masks, dense, samples, config, work_dir=work / "training")
        training = {
            "data": {
                **whence(recipe.data, recipe.mixture, recipe.samples, drawn),
                "fingerprint": fingerprint_of_names(drawn),
            },
            "samples": len(samples),
            "texts": len({sample.id for sample in samples if sample.plain}),
            "steps": len(result.history),
            "trained": result.trained,
            "teacher": result.teacher,
            "sparsity": result.sparsity,
            "held_back": result.held_back,
            "objective": result.objective,
            "end": result.end,
            "warnings": said,
            "history": result.history,
        }
        if not config.keeps_zeros:
            masks = PackedMasks()
        manifest = Manifest(
            kind="repaired",
            source=lasting_name(recipe.model),
            recipe=identity,
            besides=recipe.besides(),
            **descent(recipe.model),
            seed=recipe.seed,
            calibration=pruned.calibration,
            versions=versions(),
            plan=pruned.plan if config.keeps_zeros else {},
            seconds=round(result.seconds, 1),
            spent={**watch.rounded(), **result.spent},
            computed_in=computed_in,
        ).model_copy(update={"training": training})
        if is_first():
            store = partial(save_packed, work=work / "plain") if recipe.packed else save
            manifest = store(recipe.output, result.vlm, manifest=manifest, masks=masks)
        meet(device)
    return _outcome(recipe, manifest, f"The repaired model is in {recipe.output}.")


def _room(model: Any, masks: "PackedMasks", config: "RepairConfig", device: "torch.device") -> int:
    """Bytes that a repair writes: reconstructed blocks, checkpoints of the training, and the result."""
    from ressa.anatomy import find_anatomy
    from ressa.checkpoint import size_of
    from ressa.fast_dtype import is_slow

    shapes = {name: (len(masks.packed(name)), masks.width(name)) for name in masks}
    pruned = sum(rows * width for rows, width in shapes.values())
    wide = 4 if is_slow(model, device, trains=True) else model.dtype.itemsize
    blocks = wide * pruned if config.reconstructs else 0
    if config.method == "reconstruct":
        trained = 0
    elif config.method == "masked_finetune":
        trained = pruned
    else:
        anatomy = find_anatomy(model)
        trained = sum(
            config.rank(tower) * sum(shapes[name])
            for tower in config.tune
            for name in anatomy.linears(tower)
            if name in shapes
        )
    # Three float32 a trained weight: itself and AdamW's two. Two checkpoints are there while a third is written.
    return size_of(model) + blocks + 12 * trained * min(3, config.checkpoints)


def _find_dense(recipe: RepairRecipe, pruned: Manifest) -> None:
    """Raises UsageError if the dense model is not there."""
    if recipe.dense is not None:
        find(recipe.dense)
        return
    try:
        find(pruned.source)
    except UsageError:
        raise UsageError(
            f"{recipe.model} was pruned from {pruned.source}, which is not there (any more): "
            "name the dense model with --dense."
        ) from None


def _outcome(recipe: RepairRecipe, manifest: Manifest, line: str) -> Outcome:
    data = {"output": str(recipe.output), **manifest.model_dump(mode="json")}
    lines = [
        *_held_back(data["training"].get("held_back"), recipe.config().held_back),
        where_it_went(manifest.spent),
        line,
    ]
    if not recipe.config().keeps_zeros:
        before, after = data["training"]["sparsity"]
        lines.append(
            f"Merging plain LoRA filled the zeros: {before:.1%} of the pruned layers before, {after:.1%} now."
        )
    return Outcome(data, [manifest_table(data, f"{Path(recipe.model).name}, repaired")], lines)


def _held_back(report: dict[str, Any] | None, asked: int) -> list[str]:
    """What a person reads of the samples held back, of those asked for: a line a model, or why there is none."""
    if not report:
        why = "There were too few samples to hold any back" if asked else "No samples were held back"
        return [f"{why}, so evaluate the result to know what repair did."]
    said = [
        f"{name}: loss {found['loss']:.3f}, {_right(found)}"
        for name in ("dense", "pruned", "repaired")
        if (found := report.get(name))
    ]
    return [f"On {report['samples']} samples held back: {'; '.join(said)}."] if said else []


def _right(found: dict[str, float]) -> str:
    """Answers of a model that writes; of a dual encoder, all that is known of its ranks."""
    if "answers" in found:
        return f"answers right {found['answers']:.1f} %"
    return ", ".join(f"{name} {share:.1f} %" for name, share in found.items() if name != "loss")
