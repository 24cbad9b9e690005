"""A folder with its pruned weights packed, and back: the same tensors, and the same files beside them.

Both go through the files tensor by tensor, so a model need not fit into memory; the new folder appears whole or
not at all. docs/format.md describes what is written.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ressa.checkpoint.card import renew_use
from ressa.checkpoint.companions import carry_over
from ressa.checkpoint.loading import Vlm
from ressa.checkpoint.manifest import MANIFEST, SCORES, Manifest, read_manifest, read_masks, write_masks
from ressa.checkpoint.place import CONFIG, find, read_config
from ressa.checkpoint.saving import save
from ressa.checkpoint.stored import INDEX, StoredTensors
from ressa.checkpoint.streaming import StreamedWeights
from ressa.checkpoint.writing import Entry, write_tensors
from ressa.errors import RunError, UsageError
from ressa.files import fresh_directory, write_text
from ressa.progress import Bar, bar
from ressa.runtime.format import MARKER, METHOD, VERSION, beside, is_packed
from ressa.runtime.packing import Form, form_of, pack, positions_of, values_shape


@dataclass(frozen=True)
class Sizes:
    """What packing came to, in bytes. layers: how many weights are packed; weights: (dense, packed) of those;
    files: (dense, packed) of all tensors. left: pruned layers that stay as they are, as no tensor is theirs."""

    layers: int
    weights: tuple[int, int]
    files: tuple[int, int]
    left: tuple[str, ...] = ()


def pack_folder(folder: str | Path, output: str | Path) -> Sizes:
    """Write a folder that ressa made again, with the weight of every pruned layer packed.

    Raises UsageError if it is packed already, or has no pruned layer; RunError if a weight is not zero where its
    mask says so, or a file cannot be read.
    """
    source = _folder(folder)
    config = read_config(source)
    if "quantization_config" in config:
        what = "packed already" if is_packed(source) else "quantised"
        raise UsageError(f"{folder} is {what}: give a folder that ressa pruned or repaired.")
    manifest, masks, stored = read_manifest(source), read_masks(source), StoredTensors(source)
    # Experts that are fused in memory, and parts of a tensor, have no layer of their own to put a packed one in.
    names = {
        report.tensor: report.name
        for report in manifest.layers
        if report.name in masks
        and report.tensor in stored
        and not report.part
        and ".experts." not in report.name
    }
    if not names:
        raise UsageError(
            f"{folder} has no pruned layer to pack: give a folder that ressa pruned or repaired."
        )
    forms: dict[str, tuple[Form, int]] = {}
    for key, name in names.items():
        mask = masks[name]
        if tuple(mask.shape) != stored.places[key].shape:
            raise RunError(f"The mask of {name} is not of the shape of its weight: prune again.")
        forms[key] = form_of(mask), int(mask.sum())

    def read(key: str) -> Tensor:
        return stored[key] if key not in names else _kept(key, stored[key], masks[names[key]], forms[key][0])

    readers: dict[str, Callable[[], Tensor]] = {MARKER: lambda: torch.empty(0, dtype=torch.uint8)}
    shards: dict[str, dict[str, Entry]] = {}
    for key, place in stored.places.items():
        shard = shards.setdefault(place.file, {})
        shard[key] = Entry(place.dtype, place.shape)
        if key not in names:
            continue
        form, kept = forms[key]
        rows, width = place.shape
        positions, shape = beside(key)
        shard[key] = Entry(place.dtype, values_shape((rows, width), form, kept))
        shard[positions] = Entry("U8", (rows, -(-width // 8)))
        shard[shape] = Entry("I64", (2,))
        readers[positions] = lambda key=key, form=form: positions_of(masks[names[key]], form)  # type: ignore[misc]
        readers[shape] = lambda shape=place.shape: torch.tensor(shape)  # type: ignore[misc]
    shards[min(shards)][MARKER] = Entry("U8", (0,))
    left = tuple(name for name in masks if name not in names.values())
    with fresh_directory(output) as work:
        _write_shards(work, shards, lambda key: readers[key]() if key in readers else read(key), "Packing")
        _copy_index(source, work, shards)
        _copy_beside(source, work)
        layers = {names[key]: "2:4" if form == "2:4" else kept for key, (form, kept) in forms.items()}
        described = {"layers": layers, "quant_method": METHOD, "version": VERSION}
        _write_config(work, {**config, "quantization_config": described})
        renew_use(work)
        if left:
            write_masks(work, masks.in_order(list(left)))
    before = {key: place.size for key, place in stored.places.items()}
    after = {key: entry.nbytes for shard in shards.values() for key, entry in shard.items()}
    packed = sum(after[key] + sum(after[name] for name in beside(key)) for key in names)
    return Sizes(
        layers=len(names),
        weights=(sum(before[key] for key in names), packed),
        files=(sum(before.values()), sum(after.values())),
        left=left,
    )


def save_packed(
    folder: str | Path,
    vlm: Vlm,
    *,
    manifest: Manifest,
    masks: Mapping[str, Tensor],
    work: Path,
    streamed: StreamedWeights | None = None,
) -> Manifest:
    """`save`, packed at once. work: a place for the plain folder meanwhile."""
    manifest = save(work, vlm, manifest=manifest, masks=masks, streamed=streamed)
    pack_folder(work, folder)
    shutil.rmtree(work)
    return manifest


def unpack_folder(folder: str | Path, output: str | Path) -> Sizes:
    """Undo `pack_folder`: the same bits again. Raises UsageError if the folder is not packed, RunError if a file
    is damaged."""
    source = _folder(folder)
    config = read_config(source)
    stored = StoredTensors(source)
    if not is_packed(source) or not stored.packed:
        raise UsageError(f"{folder} is not packed: give a folder that ressa packed.")
    shapes = stored.shapes()
    shards: dict[str, dict[str, Entry]] = {}
    for key in stored:
        place = stored.places[key]
        shards.setdefault(place.file, {})[key] = Entry(place.dtype, shapes[key])
    with fresh_directory(output) as work:
        _write_shards(work, shards, stored.__getitem__, "Unpacking")
        _copy_index(source, work, shards)
        _copy_beside(source, work)
        _write_config(work, {key: value for key, value in config.items() if key != "quantization_config"})
        renew_use(work)
        if (source / MANIFEST).is_file():
            masks = read_masks(source)
            order = [report.name for report in read_manifest(source).layers if report.name in masks]
            write_masks(work, masks.in_order(order))
    before = {key: place.size for key, place in stored.places.items()}
    after = {key: entry.nbytes for shard in shards.values() for key, entry in shard.items()}
    packed = sum(before[key] + sum(before[name] for name in beside(key)) for key in stored.packed)
    return Sizes(
        layers=len(stored.packed),
        weights=(sum(after[key] for key in stored.packed), packed),
        files=(sum(after.values()), sum(before.values())),
    )


def _folder(spec: str | Path) -> Path:
    place = find(spec)
    if not isinstance(place, Path):
        raise UsageError(f"No such folder: {spec}; give a folder that ressa made.")
    return place


def _write_config(folder: Path, config: Mapping[str, object]) -> None:
    """As transformers writes one, but in the order it had."""
    write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")


def _kept(key: str, weight: Tensor, mask: Tensor, form: Form) -> Tensor:
    try:
        return pack(weight, mask, form).values
    except RunError as error:
        raise RunError(f"{key}: {error}") from None


def _write_shards(
    work: Path, shards: Mapping[str, Mapping[str, Entry]], read: Callable[[str], Tensor], what: str
) -> None:
    with bar(what, sum(map(len, shards.values()))) as progress:
        for file, entries in shards.items():
            write_tensors(work / file, entries, _advancing(read, progress))


def _advancing(read: Callable[[str], Tensor], progress: Bar) -> Callable[[str], Tensor]:
    def advance(key: str) -> Tensor:
        progress.advance()
        return read(key)

    return advance


def _copy_index(source: Path, work: Path, shards: Mapping[str, Mapping[str, Entry]]) -> None:
    """The index of a model in several files, if it has one, with its new keys and size."""
    if not (source / INDEX).is_file():
        return
    index = json.loads((source / INDEX).read_text(encoding="utf-8"))
    index["weight_map"] = {key: file for file, entries in shards.items() for key in entries}
    total = sum(entry.nbytes for entries in shards.values() for entry in entries.values())
    index["metadata"] = {**index.get("metadata", {}), "total_size": total}
    write_text(work / INDEX, json.dumps(index, indent=2, sort_keys=True) + "\n")


def _copy_beside(source: Path, work: Path) -> None:
    carry_over(source, work)
    for name in (MANIFEST, SCORES):
        if (source / name).is_file():
            shutil.copyfile(source / name, work / name)
