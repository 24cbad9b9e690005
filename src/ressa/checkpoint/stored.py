"""The tensors of a checkpoint folder, read one by one; nothing is loaded that is not asked for."""

import errno
import json
import os
import re
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ressa.checkpoint.place import CONFIG, read_config
from ressa.errors import RunError, UsageError, brief
from ressa.fused import Part
from ressa.runtime.format import MARKER, POSITIONS, SHAPE, WEIGHT, beside, is_packed
from ressa.runtime.packing import PackedWeight

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
READERS = 8  # threads that wait for the disk or count: enough to keep either busy

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: the name of its file, its first byte there, and how many bytes it has. dtype: as
    safetensors spells it, such as BF16."""

    file: str
    begin: int
    size: int
    dtype: str
    shape: tuple[int, ...]


class StoredTensors(Mapping[str, Tensor]):
    """Key → tensor of `model.safetensors`, or of the shards that its index names. Reads on every access.

    A packed weight is read as the weight that it stands for; what lies beside it has no key of its own here.
    Empty for a folder with pickled weights only, which transformers has to load as a whole.
    Raises UsageError for a folder without weights, RunError for an index that cannot be read.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.files: dict[str, str] = {}
        if (self.folder / SINGLE).is_file():  # which transformers looks for first
            with self._open(SINGLE) as file:
                self.files = dict.fromkeys(file.keys(), SINGLE)
        elif (self.folder / INDEX).is_file():
            self.files = _read_index(self.folder / INDEX)
        elif not any((self.folder / name).is_file() for name in PICKLED):
            raise UsageError(f"{folder} holds no model.safetensors: give the folder of a checkpoint.")

    def __getitem__(self, key: str) -> Tensor:
        return self.packed_weight(key).dense() if key in self.packed else self._read(key)

    def __contains__(self, key: object) -> bool:
        return key in self.files and key not in self._companions

    def __iter__(self) -> Iterator[str]:
        return (key for key in self.files if key not in self._companions)

    def __len__(self) -> int:
        return len(self.files) - len(self._companions)

    @cached_property
    def packed(self) -> frozenset[str]:
        """The keys of packed weights. Raises RunError if a part of one is not there."""
        if not is_packed(self.folder):
            return frozenset()
        stems = {
            key.removesuffix(end) for end in (POSITIONS, SHAPE) for key in self.files if key.endswith(end)
        }
        keys = frozenset(f"{stem}{WEIGHT}" for stem in stems)
        if missing := sorted({part for key in keys for part in (key, *beside(key))} - self.files.keys()):
            raise RunError(f"{self.folder} holds no {missing[0]}: make or fetch it anew.")
        return keys

    @cached_property
    def _companions(self) -> frozenset[str]:
        marker = {MARKER} & self.files.keys()
        return frozenset(marker.union(*(beside(key) for key in self.packed)))

    def packed_weight(self, key: str) -> PackedWeight:
        """A packed weight as it is stored. Raises RunError if its parts do not belong together."""
        values, (positions, shape) = self._read(key), map(self._read, beside(key))
        rows, width = shape.tolist() if shape.shape == (2,) else (0, 0)
        packed = PackedWeight(values, positions, (rows, width), "2:4" if values.ndim == 2 else "bitmask")
        packed.check(f"{key} in {self.folder}")
        return packed

    def _read(self, key: str) -> Tensor:
        with self._open(self.files[key]) as file:
            return file.get_tensor(key)

    @cached_property
    def places(self) -> dict[str, Place]:
        """Key → where it lies, from the files' headers alone. Raises RunError for a file that has none."""
        found: dict[str, Place] = {}
        for name in sorted(set(self.files.values())):
            found |= read_places(self.folder / name)
        return found

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Key → shape, from the files' headers; of a packed weight that of what it stands for."""
        shapes = {key: place.shape for key, place in self.places.items() if key in self}
        return shapes | {key: tuple(self._read(beside(key)[1]).tolist()) for key in self.packed}

    def visit(self, keys: Collection[str], look: Callable[[str, Tensor], T]) -> dict[str, T]:
        """key → `look(key, tensor)` for each of `keys`, each read once, as fast as the disk gives them.

        Several threads take them in the order they lie in the files; a tensor is mapped, not copied, and let go
        of as soon as `look` returns. Raises RunError for a key that is not there or cannot be read.
        """

        def take(key: str) -> T:
            self.announce(self.places[key])
            return look(key, self[key])

        if missing := sorted(set(keys) - set(self.places)):
            raise RunError(f"{self.folder} holds no tensor {missing[0]}: make or fetch it anew.")
        ordered = sorted(keys, key=lambda key: (self.places[key].file, self.places[key].begin))
        with ThreadPoolExecutor(READERS) as pool:
            return dict(zip(ordered, pool.map(take, ordered), strict=True))

    def visit_layers(
        self, layers: Mapping[str, "Location"], look: Callable[[str, Tensor], T]
    ) -> dict[str, T]:
        """layer → `look(layer, weight)`, read likewise; parts of one tensor are looked at while it is there."""
        within: dict[str, list[str]] = {}
        for layer, location in layers.items():
            within.setdefault(location.key, []).append(layer)

        def look_within(key: str, tensor: Tensor) -> dict[str, T]:
            return {layer: look(layer, layers[layer].of(tensor)) for layer in within[key]}

        return {
            layer: seen for found in self.visit(within, look_within).values() for layer, seen in found.items()
        }

    def announce(self, place: Place) -> None:
        """Let the system read a tensor in one sweep, not page by page as it is touched."""
        if hasattr(os, "posix_fadvise"):
            descriptor = os.open(self.folder / place.file, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, place.begin, place.size, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(descriptor)

    @contextmanager
    def _open(self, name: str) -> Iterator[Any]:
        try:
            with safe_open(self.folder / name, "pt") as file:
                yield file
        except (SafetensorError, FileNotFoundError) as error:
            reason = str(error)
            if (self.folder / name).is_file() and not os.access(self.folder / name, os.R_OK):
                reason = os.strerror(errno.EACCES)  # of which safetensors says that there is no such file
            raise RunError(
                f"{self.folder / name} cannot be read ({reason}): make or fetch it anew."
            ) from error


def read_places(path: Path) -> dict[str, Place]:
    """Key → where it lies in one safetensors file. Raises RunError if its header cannot be read."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if end != path.stat().st_size:
            raise ValueError(f"it has {path.stat().st_size} bytes, and its header says {end}")
        return {
            key: Place(
                path.name,
                8 + length + entry["data_offsets"][0],
                entry["data_offsets"][1] - entry["data_offsets"][0],
                entry["dtype"],
                tuple(entry["shape"]),
            )
            for key, entry in header.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise RunError(f"{path} cannot be read ({error}): make or fetch it anew.") from error


def check_weights(folder: Path) -> None:
    """Raises RunError for a folder whose weights are damaged or not all there, as far as headers tell, and
    UsageError for one that has none, fewer tensors than its config has layers, or others than those looked for here."""
    stored, config = StoredTensors(folder), read_config(folder)
    if (named := config.get("transformers_weights")) not in (None, SINGLE, INDEX):
        raise UsageError(
            f"{folder / CONFIG} says that the weights are in {brief(named)} (transformers_weights): store them as "
            f"{SINGLE}."
        )
    if not stored.files:
        _check_pickled(folder)
    if lost := sorted(key for key in stored if key not in stored.places):
        raise RunError(
            f"{folder / stored.files[lost[0]]} lacks {lost[0]}, which the index places there: fetch both anew."
        )
    for key, layers in _numbers_of_layers(config):
        if stored.files and layers > len(stored):
            raise UsageError(
                f"{folder / CONFIG} says {key} {layers}, and the weights are {len(stored)} tensors in all: make "
                "them agree."
            )


def _check_pickled(folder: Path) -> None:
    """Raises RunError for pickled weights that are cut short or, shards, not all beside their index."""
    single, index = PICKLED
    names = {single} if (folder / single).is_file() else set(_read_index(folder / index).values())
    for path in (folder / name for name in sorted(names)):
        with path.open("rb") as file:
            start = file.read(2)
        # What torch.save writes is a zip archive, whose table stands at its end; what it once wrote is one pickle.
        if not (zipfile.is_zipfile(path) if start == b"PK" else start[:1] == b"\x80"):
            raise RunError(f"{path} is damaged or cut short: make or fetch it anew.")


def _numbers_of_layers(config: dict[str, Any]) -> Iterator[tuple[str, int]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _numbers_of_layers(value)
        elif isinstance(value, int) and re.search(r"^(num|n)_.*layers?$|^n_layers?$|^depth$", key):
            yield key, value


def _read_index(path: Path) -> dict[str, str]:
    """Key → shard. A shard is a file beside the index, so that nothing else is ever read."""
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        names = set(files.values())
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise RunError(f"{path} is no index of weights: make or fetch it anew.") from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise RunError(
                f"{path} names {str(name)[:100]}, which is no file beside it: make or fetch it anew."
            )
        if not (path.parent / name).is_file():
            raise RunError(f"{path.parent} lacks {name}, which {path.name} names: fetch it.")
    return files


@dataclass(frozen=True)
class Location:
    """Where a layer's weight is stored: under which key, and which part of that tensor it is, None for all of it."""

    key: str
    part: Part | None = None

    def of(self, tensor: Tensor) -> Tensor:
        """The weight (out, in) within the tensor of that key."""
        return tensor if self.part is None else self.part.of(tensor)


def locate(
    layers: Mapping[str, tuple[int, ...]],
    stored: Mapping[str, tuple[int, ...]],
    parts: Mapping[str, Part] | None = None,
) -> dict[str, Location]:
    """Layer name → where its weight is stored; layers that are stored in yet another form are left out.

    layers, stored: name → shape. parts: of the layers that a model keeps fused, where (`ressa.fused.parts`). On disk
    either form is found: every expert apart, or all of them in one tensor.
    """
    found = {layer: Location(key) for layer, key in match_keys(layers, stored).items()}
    lacking = {layer: part for layer, part in (parts or {}).items() if layer in layers and layer not in found}
    whole = {part.parameter: (0,) for part in lacking.values()}
    keys = _match(whole, dict.fromkeys(stored, (0,)))  # by their names; whether they fit is seen below
    for layer, part in lacking.items():
        if part.parameter in keys and _fits(stored[keys[part.parameter]], part, layers[layer]):
            found[layer] = Location(keys[part.parameter], part)
    return found


def _fits(fused: tuple[int, ...], part: Part, shape: tuple[int, ...]) -> bool:
    """Whether a tensor of the shape `fused` can hold the part, a weight of `shape`."""
    dimensions = list(fused) if part.index is None else list(fused[1:])
    if len(dimensions) != 2 or (part.index is not None and part.index >= fused[0]):
        return False
    if part.transposed:
        dimensions.reverse()
    rows = dimensions[0] if part.rows is None else len(range(*part.rows))
    last = dimensions[0] if part.rows is None else part.rows[1]
    return last <= dimensions[0] and (rows, dimensions[1]) == tuple(shape)


def match_keys(
    layers: Mapping[str, tuple[int, ...]], stored: Mapping[str, tuple[int, ...]]
) -> dict[str, str]:
    """Layer name → key of its weight. transformers renames prefixes on saving (`model.language_model.layers…`
    becomes `language_model.model.layers…`), so a layer without a key of its own gets, of those of its shape,
    the one that agrees with it in the longest tail and then in the most parts.

    layers, stored: name → shape. Layers for which there is no key are left out.
    """
    matched = _match({f"{name}.weight": shape for name, shape in layers.items()}, stored)
    return {name.removesuffix(".weight"): key for name, key in matched.items()}


def _match(
    parameters: Mapping[str, tuple[int, ...]], stored: Mapping[str, tuple[int, ...]]
) -> dict[str, str]:
    """Parameter name → key, as `match_keys` says."""
    keys = {name: name for name, shape in parameters.items() if tuple(stored.get(name, ())) == tuple(shape)}
    taken = set(keys.values())
    likely: dict[tuple[tuple[int, ...], str], list[str]] = {}
    for key, shape in stored.items():
        likely.setdefault((tuple(shape), _leaf(key)), []).append(key)
    renamed: dict[str, str] = {}  # head of a name → that of its key, as found so far
    for name, shape in parameters.items():
        if name in keys:
            continue
        guesses = (new + name[len(old) :] for old, new in renamed.items() if name.startswith(old))
        best = next((g for g in guesses if g not in taken and tuple(stored.get(g, ())) == tuple(shape)), None)
        if best is None:
            mine = name.split(".")
            free = [key for key in likely.get((tuple(shape), _leaf(name)), ()) if key not in taken]
            best = max(free, key=lambda key: _likeness(mine, key.split(".")), default=None)
            if best is None:
                continue
            tail = _likeness(mine, best.split("."))[0]
            if tail > 2:
                renamed[".".join(mine[:-tail]) + "."] = ".".join(best.split(".")[:-tail]) + "."
        keys[name] = best
        taken.add(best)
    return keys


def _leaf(name: str) -> str:
    """The part of a name that never changes: the parameter's own, with its linear's before `.weight`."""
    parts = name.split(".")
    return ".".join(parts[-2:] if parts[-1] == "weight" else parts[-1:])


def _likeness(mine: list[str], other: list[str]) -> tuple[int, int]:
    tail = 0
    for a, b in zip(reversed(mine), reversed(other), strict=False):
        if a != b:
            break
        tail += 1
    return tail, len(set(mine) & set(other))
