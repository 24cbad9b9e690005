"""From a model in memory to its folder, which loads with plain transformers, without ressa."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from ressa.anatomy import Anatomy, find_anatomy
from ressa.checkpoint.card import write_card
from ressa.checkpoint.companions import carry_over, correct_config, is_weights
from ressa.checkpoint.counting import by_tower, examine, layer_report, reload
from ressa.checkpoint.loading import Vlm
from ressa.checkpoint.manifest import DENSE, MANIFEST, MASKS, LayerReport, Manifest, write_manifest
from ressa.checkpoint.stored import StoredTensors, locate
from ressa.checkpoint.streaming import StreamedWeights
from ressa.errors import RunError, UsageError
from ressa.files import fresh_directory
from ressa.fused import on_plain_linears, parts, splitted
from ressa.runtime.linear import weight_of
from ressa.sparsity import PackedMasks, as_packed


def save(
    folder: str | Path,
    vlm: Vlm,
    *,
    manifest: Manifest,
    masks: Mapping[str, Tensor],
    max_shard_size: str = "5GB",
    streamed: StreamedWeights | None = None,
) -> Manifest:
    """Write a plain Hugging Face folder with manifest, masks and model card; it appears whole or not at all.

    masks: layer name → bool (out, in), True = kept, for every layer of `manifest.plan`. streamed: the model's
    weights, if they stay on disk: then pruned ones are in their place already. What was written is
    read again and counted: returns the manifest with its layers and towers, and the time all this took, filled in.
    Raises RunError if masks and plan do not agree, or something that was written is not what they say.
    """
    if odd := sorted(set(masks) ^ set(manifest.plan)):
        raise RunError(f"The masks are not those of the plan ({odd[0]} is in only one of them): prune again.")
    masks, started = as_packed(masks), perf_counter()
    with fresh_directory(folder) as work:
        write_model(work, vlm, max_shard_size=max_shard_size, streamed=streamed)
        anatomy = find_anatomy(vlm.model)
        layers = _read_back(work, vlm.model, anatomy, manifest.plan, masks)
        towers = by_tower((l.tower, l.shape, round(l.achieved * l.shape[0] * l.shape[1])) for l in layers)
        spent = {**manifest.spent, "save": round(perf_counter() - started, 1)}
        found = {"prunable": anatomy.prunable(), "outside": list(anatomy.outside)}
        manifest = manifest.model_copy(update={"layers": layers, "towers": towers, "spent": spent, **found})
        write_manifest(work, manifest, masks)
        write_card(work, manifest)
    return manifest


@on_plain_linears
def check_fits(model: nn.Module, plan: Mapping[str, str], masks: PackedMasks) -> None:
    """Raises UsageError unless the plan and the masks of a folder are those of the model in it."""
    modules: dict[str, Any] = dict(model.named_modules())
    for name in sorted(set(masks) | set(plan)):
        weight = getattr(modules.get(name), "weight", None)
        if name not in masks or name not in plan:
            wrong = "is in only one of its plan and its masks"
        elif weight is None or weight.shape != (len(masks.packed(name)), masks.width(name)):
            wrong = "is no layer of the model of that shape"
        elif not examine(weight.detach(), plan[name], masks.packed(name))[1]:
            wrong = f"does not keep to its mask or its pattern {plan[name]}"
        else:
            continue
        raise UsageError(
            f"{MANIFEST}, {MASKS} and the weights are not of one model: {name} {wrong}; prune it again."
        )


def write_model(
    folder: Path, vlm: Vlm, *, max_shard_size: str = "5GB", streamed: StreamedWeights | None = None
) -> None:
    """Write weights, config and processor into an empty folder.

    All but the weights is what lies beside them where the model came from, byte for byte; a model that was
    made in memory, and its processor, write that themselves.
    """
    if vlm.folder is None:
        vlm.model.save_pretrained(folder, max_shard_size=max_shard_size)
        if vlm.processor is not None:
            vlm.processor.save_pretrained(folder)
    elif streamed is not None:
        streamed.finish(folder)
        carry_over(vlm.folder, folder)
    else:
        with _plain_generation(vlm.model):
            vlm.model.save_pretrained(folder, max_shard_size=max_shard_size)
        for path in folder.iterdir():
            if not is_weights(path):
                path.unlink()
        carry_over(vlm.folder, folder)
    correct_config(folder, vlm.model)


def size_of(model: nn.Module) -> int:
    """Bytes of a model's parameters and buffers."""
    return sum(each.numel() * each.element_size() for each in chain(model.parameters(), model.buffers()))


@contextmanager
def _plain_generation(model: Any) -> Iterator[None]:
    """transformers saves no model whose generation config contradicts itself, and there are many of those."""
    own = getattr(model, "generation_config", None)
    try:
        if own is not None:
            model.generation_config = GenerationConfig()
        yield
    finally:
        if own is not None:
            model.generation_config = own


def _read_back(
    folder: Path, model: Any, anatomy: Anatomy, plan: Mapping[str, str], masks: PackedMasks
) -> list[LayerReport]:
    """Every prunable linear as it was written, each read once. Raises RunError if a weight is not the model's
    own, or does not keep to its pattern and mask."""
    with splitted(model):
        modules: dict[str, Any] = dict(model.named_modules())
        weights: dict[str, Tensor] = {name: weight_of(modules[name]).detach() for name in anatomy.linears()}
        parted = parts(model)
    if foreign := sorted(set(plan) - set(weights)):
        raise RunError(f"The plan names {foreign[0]}, which this model does not have: prune again.")
    stored = StoredTensors(folder)
    at = locate({name: tuple(weight.shape) for name, weight in weights.items()}, stored.shapes(), parted)

    def look(name: str, written: Tensor) -> tuple[int, bool]:
        """How many zeros were written, and whether the weight is as it should be."""
        packed = masks.packed(name) if name in masks else None
        zeros, kept = examine(written, plan.get(name, DENSE), packed)
        return zeros, kept is not False and _alike(written, weights[name])

    found = stored.visit_layers(at, look)
    if others := [name for name in weights if name not in found or not found[name][1]]:
        # Stored in another form (split or permuted), which only transformers can turn back.
        again = reload(folder)
        with splitted(again):
            there: dict[str, Any] = dict(again.named_modules())
            for name in others:
                at.pop(name, None)
                found[name] = look(name, weight_of(there[name]).detach())
                if not found[name][1]:
                    raise RunError(
                        f"{name} was written with {found[name][0]} zeros that do not keep to its mask or the pattern "
                        f"{plan.get(name, DENSE)}, or not as it is in memory: nothing was saved; prune again."
                    )
    return [
        layer_report(
            name,
            tuple(weight.shape),
            anatomy,
            at,
            asked=plan.get(name, DENSE),
            achieved=found[name][0] / weight.numel(),
        )
        for name, weight in weights.items()
    ]


def _alike(written: Tensor, weight: Tensor) -> bool:
    """Whether what was written looks like a weight in memory: its first and last rows, which tell one form of it
    from another. Comparing all of it would read the model once more."""
    return written.shape == weight.shape and all(
        torch.equal(written[rows], weight[rows].cpu()) for rows in (slice(None, 8), slice(-8, None))
    )
