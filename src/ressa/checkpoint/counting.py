"""Sparsity counted from weights: in memory, or on disk, in one pass over the files."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ressa.anatomy import Anatomy, find_anatomy
from ressa.checkpoint.manifest import DENSE, MANIFEST, MASKS, LayerReport, Manifest, read_manifest, read_masks
from ressa.checkpoint.place import find
from ressa.checkpoint.stored import Location, StoredTensors, locate
from ressa.errors import RunError, UsageError
from ressa.fused import on_plain_linears, parts, splitted
from ressa.runtime.linear import weight_of
from ressa.sparsity import PackedMasks, count_packed, count_zeros, pack_nonzero, parse_pattern


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
    """towers: tower → share of zeros in its prunable linears. prunable, outside: as `Manifest` says."""

    layers: list[CountedLayer]
    towers: dict[str, float]
    prunable: dict[str, float] = field(default_factory=dict)
    outside: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether every pattern that was asked for holds."""
        return all(layer.holds is not False for layer in self.layers)


@on_plain_linears
def measure(model: nn.Module, anatomy: Anatomy) -> dict[str, float]:
    """Tower → share of zeros in the weights of its prunable linears, counted from the model in memory."""
    modules: dict[str, Any] = dict(model.named_modules())
    weights = ((name, weight_of(modules[name])) for name in anatomy.linears())
    return by_tower((anatomy.tower_of(name), weight.shape, count_zeros(weight)) for name, weight in weights)


def by_tower(layers: Iterable[tuple[str, tuple[int, ...], int]]) -> dict[str, float]:
    """(tower, shape, zeros) of every linear → tower → share of zeros."""
    sums: dict[str, tuple[int, int]] = {}
    for tower, shape, none in layers:
        before = sums.get(tower, (0, 0))
        sums[tower] = (before[0] + none, before[1] + torch.Size(shape).numel())
    return {tower: none / size for tower, (none, size) in sums.items()}


def examine(weight: Tensor, asked: str | None, packed: Tensor | None = None) -> tuple[int, bool | None]:
    """The number of zeros in a weight (out, in), and whether it keeps to the pattern that was asked and, where
    there is one, to its packed mask: None if nothing was asked."""
    nonzero = pack_nonzero(weight)
    counted = weight.numel() - count_packed(nonzero)
    if asked in (None, DENSE):
        return counted, None
    stray = packed is not None and bool((nonzero & ~packed).any())
    return counted, not stray and parse_pattern(asked).verify_packed(nonzero, weight.shape[1])


def count_sparsity(folder: str | Path) -> SparsityCount:
    """Count zeros in the saved tensors of a checkpoint folder, each read once.

    Layers and patterns come from the manifest; without one, layers from the model's structure alone.
    Raises UsageError for a folder that holds no VLM, RunError for tensors that cannot be read.
    """
    place = find(folder)
    if not isinstance(place, Path):
        raise UsageError(f"No such folder: {folder}; give the folder of a checkpoint.")
    manifest = read_manifest(place) if (place / MANIFEST).is_file() else _without_manifest(place)
    reports = manifest.layers
    masks = read_masks(place) if (place / MASKS).is_file() else PackedMasks()
    stored = StoredTensors(place)
    by_name = {report.name: report for report in reports}

    def look(name: str, weight: Tensor | None) -> tuple[int, bool | None]:
        report = by_name[name]
        packed = masks.packed(name) if name in masks else None
        masked = report.shape if packed is None else (len(packed), masks.width(name))
        if weight is None or not report.shape == masked == tuple(weight.shape):
            raise RunError(
                f"{name} has another shape in {place / MANIFEST} or {MASKS} than in the weights: they are not "
                "of one model, so make it anew."
            )
        return examine(weight, report.asked or None, packed)

    at = {r.name: Location(r.tensor, r.part) for r in reports if r.tensor in stored}
    results = stored.visit_layers(at, look)
    if others := [report.name for report in reports if report.name not in results]:
        model = reload(place)
        with splitted(model):
            modules: dict[str, Any] = dict(model.named_modules())
            for name in others:
                module = modules.get(name)
                results[name] = look(name, weight_of(module) if hasattr(module, "weight") else None)
    counted = [
        CountedLayer(r.name, r.tower, r.shape, r.asked or None, results[r.name][0] / prod(r.shape), holds)
        for r in reports
        for holds in [results[r.name][1]]
    ]
    towers = by_tower((r.tower, r.shape, results[r.name][0]) for r in reports)
    return SparsityCount(counted, towers, manifest.prunable, manifest.outside)


def layer_report(
    name: str,
    shape: tuple[int, ...],
    anatomy: Anatomy,
    at: Mapping[str, Location],
    asked: str = "",
    achieved: float = 0.0,
) -> LayerReport:
    """What a manifest says of a linear. at: where each lies on disk; one that is not there lies in another form."""
    place = at.get(name, Location(""))
    return LayerReport(
        name=name,
        tower=anatomy.tower_of(name),
        shape=(shape[0], shape[1]),
        asked=asked,
        achieved=achieved,
        tensor=place.key,
        part=place.part,
    )


def _without_manifest(folder: Path) -> Manifest:
    """What a manifest would say of a folder that has none: its layers, from the model's structure alone."""
    # Which a folder with a manifest does not need.
    from ressa.checkpoint.loading import plan_of, without_weights

    model = without_weights(*plan_of(folder, str(folder)), str(folder))
    with splitted(model):
        anatomy = find_anatomy(model)
        shapes = {name: tuple(model.get_submodule(name).weight.shape) for name in anatomy.linears()}
        at = locate(shapes, StoredTensors(folder).shapes(), parts(model))
    layers = [layer_report(name, shape, anatomy, at) for name, shape in shapes.items()]
    return Manifest(
        kind="dense",
        source=str(folder),
        layers=layers,
        prunable=anatomy.prunable(),
        outside=list(anatomy.outside),
    )


def reload(folder: Path) -> nn.Module:
    """The model of a folder, on the CPU, as plain transformers loads it."""
    from ressa.checkpoint.loading import load_model

    return load_model(folder, str(folder))
