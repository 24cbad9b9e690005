"""Sparsity counted from weights: in memory, or on disk one tensor at a time."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ressa.anatomy import Anatomy, find_anatomy
from ressa.checkpoint.manifest import DENSE, MANIFEST, MASKS, LayerReport, read_manifest, read_masks
from ressa.checkpoint.place import find
from ressa.checkpoint.stored import StoredTensors, match_keys
from ressa.errors import UsageError
from ressa.sparsity import parse_pattern


@dataclass(frozen=True)
class CountedLayer:
    """One prunable linear as it lies on disk. asked: its pattern, "dense", or None where no manifest says.
    sparsity: share of zeros. holds: whether the pattern holds and nothing stands outside the mask, None where
    nothing was asked."""

    name: str
    tower: str
    shape: tuple[int, int]
    asked: str | None
    sparsity: float
    holds: bool | None


@dataclass(frozen=True)
class SparsityCount:
    """towers: tower → share of zeros in its prunable linears."""

    layers: list[CountedLayer]
    towers: dict[str, float]

    @property
    def holds(self) -> bool:
        """Whether every pattern that was asked for holds."""
        return all(layer.holds is not False for layer in self.layers)


def measure(model: nn.Module, anatomy: Anatomy) -> dict[str, float]:
    """Tower → share of zeros in the weights of its prunable linears, counted from the model in memory."""
    modules: dict[str, Any] = dict(model.named_modules())
    return by_tower(
        (anatomy.tower_of(name), modules[name].weight.shape, zeros(modules[name].weight))
        for name in anatomy.linears()
    )


def by_tower(layers: Iterable[tuple[str, tuple[int, ...], int]]) -> dict[str, float]:
    """(tower, shape, zeros) of every linear → tower → share of zeros."""
    sums: dict[str, tuple[int, int]] = {}
    for tower, shape, none in layers:
        before = sums.get(tower, (0, 0))
        sums[tower] = (before[0] + none, before[1] + torch.Size(shape).numel())
    return {tower: none / size for tower, (none, size) in sums.items()}


def zeros(weight: Tensor) -> int:
    """The number of zeros in a weight."""
    return weight.numel() - int(weight.count_nonzero())


def holds(weight: Tensor, asked: str, mask: Tensor | None) -> bool:
    """Whether a weight (out, in) keeps to its pattern, and to its mask where there is one."""
    stray = mask is not None and bool(weight.masked_fill(mask.to(weight.device), 0).any())
    return not stray and parse_pattern(asked).verify(weight != 0)


def count_sparsity(folder: str | Path) -> SparsityCount:
    """Count zeros in the saved tensors of a checkpoint folder, one at a time.

    Layers and patterns come from the manifest; without one, layers from the model's structure alone.
    Raises UsageError for a folder that holds no VLM, RunError for tensors that cannot be read.
    """
    place = find(folder)
    if not isinstance(place, Path):
        raise UsageError(f"No such folder: {folder}; give the folder of a checkpoint.")
    reports = read_manifest(place).layers if (place / MANIFEST).is_file() else _layers_without_manifest(place)
    masks = read_masks(place) if (place / MASKS).is_file() else {}
    counted: list[CountedLayer] = []
    for report, weight in _weights(place, reports):
        asked = report.asked or None
        kept = None if asked in (None, DENSE) else holds(weight, report.asked, masks.get(report.name))
        share = zeros(weight) / weight.numel()
        counted.append(CountedLayer(report.name, report.tower, report.shape, asked, share, kept))
    return SparsityCount(
        counted,
        by_tower((c.tower, c.shape, round(c.sparsity * torch.Size(c.shape).numel())) for c in counted),
    )


def _layers_without_manifest(folder: Path) -> list[LayerReport]:
    from transformers import AutoConfig  # a second's import that a folder with a manifest does not need

    from ressa.checkpoint.loading import explained, model_class

    with explained(str(folder)):
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        known = model_class(config)
        with torch.device("meta"):
            model = (
                known._from_config(config) if hasattr(known, "_from_config") else known.from_config(config)
            )
    anatomy = find_anatomy(model)
    shapes = {name: tuple(model.get_submodule(name).weight.shape) for name in anatomy.linears()}
    keys = match_keys(shapes, StoredTensors(folder).shapes())
    return [
        LayerReport(
            name=name,
            tower=anatomy.tower_of(name),
            shape=shape,
            asked="",
            achieved=0,
            tensor=keys.get(name, ""),
        )
        for name, shape in shapes.items()
    ]


def _weights(folder: Path, reports: Iterable[LayerReport]) -> Iterator[tuple[LayerReport, Tensor]]:
    """The stored weight of every layer; the model is loaded only if some are stored in another form."""
    stored = StoredTensors(folder)
    modules: Mapping[str, Any] | None = None
    for report in reports:
        if report.tensor in stored:
            yield report, stored[report.tensor]
            continue
        if modules is None:
            modules = dict(reload(folder).named_modules())
        yield report, modules[report.name].weight.detach()


def reload(folder: Path) -> nn.Module:
    """The model of a folder, on the CPU, as plain transformers loads it."""
    from transformers import AutoConfig

    from ressa.checkpoint.loading import explained, model_class

    with explained(str(folder)):
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        return model_class(config).from_pretrained(folder, dtype="auto", local_files_only=True)
