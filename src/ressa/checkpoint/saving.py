"""From a model in memory to its folder, which loads with plain transformers, without ressa."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from ressa.anatomy import find_anatomy
from ressa.checkpoint.companions import carry_over, correct_config, is_weights
from ressa.checkpoint.counting import by_tower, holds, reload, zeros
from ressa.checkpoint.loading import Vlm
from ressa.checkpoint.manifest import DENSE, LayerReport, Manifest, write_manifest
from ressa.checkpoint.stored import StoredTensors, match_keys
from ressa.errors import RunError
from ressa.files import fresh_directory


def save(
    folder: str | Path,
    vlm: Vlm,
    *,
    manifest: Manifest,
    masks: Mapping[str, Tensor],
    max_shard_size: str = "5GB",
) -> Manifest:
    """Write a plain Hugging Face folder with manifest and masks; it appears whole or not at all.

    masks: layer name → bool (out, in), True = kept, for every layer of `manifest.plan`. What was written is
    read again and counted: returns the manifest with its layers and towers filled in.
    Raises RunError if masks and plan do not agree, or something that was written is not what they say.
    """
    if odd := sorted(set(masks) ^ set(manifest.plan)):
        raise RunError(f"The masks are not those of the plan ({odd[0]} is in only one of them): prune again.")
    with fresh_directory(folder) as work:
        write_model(work, vlm, max_shard_size=max_shard_size)
        layers = _read_back(work, vlm.model, manifest.plan, masks)
        towers = by_tower((l.tower, l.shape, round(l.achieved * l.shape[0] * l.shape[1])) for l in layers)
        manifest = manifest.model_copy(update={"layers": layers, "towers": towers})
        write_manifest(work, manifest, masks)
    return manifest


def write_model(folder: Path, vlm: Vlm, *, max_shard_size: str = "5GB") -> None:
    """Write weights, config and processor into an empty folder.

    All but the weights is what lies beside them where the model came from, byte for byte; a model that was
    made in memory, and its processor, write that themselves.
    """
    if vlm.folder is None:
        vlm.model.save_pretrained(folder, max_shard_size=max_shard_size)
        if vlm.processor is not None:
            vlm.processor.save_pretrained(folder)
    else:
        with _plain_generation(vlm.model):
            vlm.model.save_pretrained(folder, max_shard_size=max_shard_size)
        for path in folder.iterdir():
            if not is_weights(path):
                path.unlink()
        carry_over(vlm.folder, folder)
    correct_config(folder, vlm.model)


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
    folder: Path, model: Any, plan: Mapping[str, str], masks: Mapping[str, Tensor]
) -> list[LayerReport]:
    """Every prunable linear as it was written. Raises RunError if a weight is not the model's own, or does
    not keep to its pattern and mask."""
    anatomy = find_anatomy(model)
    modules: dict[str, Any] = dict(model.named_modules())
    shapes = {name: tuple(modules[name].weight.shape) for name in anatomy.linears()}
    if foreign := sorted(set(plan) - set(shapes)):
        raise RunError(f"The plan names {foreign[0]}, which this model does not have: prune again.")
    stored = StoredTensors(folder)
    keys = match_keys(shapes, stored.shapes())
    again: Any = None
    layers: list[LayerReport] = []
    for name in shapes:
        weight, key = modules[name].weight.detach().cpu(), keys.get(name, "")
        written = stored[key] if key else None
        if written is None or not torch.equal(written, weight):
            # Stored in another form (split or permuted), which only transformers can turn back.
            again = again or reload(folder)
            key, written = "", again.get_submodule(name).weight.detach()
        asked = plan.get(name, DENSE)
        if not torch.equal(written, weight) or (
            asked != DENSE and not holds(written, asked, masks.get(name))
        ):
            raise RunError(
                f"{name} was written with {zeros(written)} zeros that do not keep to its mask or the pattern "
                f"{asked}, or not as it is in memory: nothing was saved; prune again."
            )
        layers.append(
            LayerReport(
                name=name,
                tower=anatomy.tower_of(name),
                shape=(weight.shape[0], weight.shape[1]),
                asked=asked,
                achieved=zeros(written) / written.numel(),
                tensor=key,
            )
        )
    return layers
