"""The tensors of a checkpoint folder, read one by one; nothing is loaded that is not asked for."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ressa.errors import RunError, UsageError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


class StoredTensors(Mapping[str, Tensor]):
    """Key → tensor of `model.safetensors`, or of the shards that its index names. Reads on every access."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        index = self.folder / INDEX
        if index.is_file():
            self.files: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        elif (self.folder / SINGLE).is_file():
            with self._open(SINGLE) as file:
                self.files = dict.fromkeys(file.keys(), SINGLE)
        else:
            raise UsageError(f"{folder} holds no model.safetensors: give the folder of a checkpoint.")

    def __getitem__(self, key: str) -> Tensor:
        with self._open(self.files[key]) as file:
            return file.get_tensor(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Key → shape, from the files' headers."""
        found: dict[str, tuple[int, ...]] = {}
        for name in sorted(set(self.files.values())):
            with self._open(name) as file:
                found |= {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        return found

    @contextmanager
    def _open(self, name: str) -> Iterator[Any]:
        try:
            with safe_open(self.folder / name, "pt") as file:
                yield file
        except (SafetensorError, FileNotFoundError) as error:
            raise RunError(
                f"{self.folder / name} cannot be read ({error}): make or fetch it anew."
            ) from error


def match_keys(
    layers: Mapping[str, tuple[int, ...]], stored: Mapping[str, tuple[int, ...]]
) -> dict[str, str]:
    """Layer name → key of its weight. transformers renames prefixes on saving (`model.language_model.layers…`
    becomes `language_model.model.layers…`), so a layer without a key of its own gets, of those of its shape,
    the one that agrees with it in the longest tail and then in the most parts.

    layers, stored: name → shape. Layers for which there is no key are left out.
    """
    keys = {name: f"{name}.weight" for name in layers if f"{name}.weight" in stored}
    taken = set(keys.values())
    for name, shape in layers.items():
        if name in keys:
            continue
        mine = [*name.split("."), "weight"]
        likely = [key for key, other in stored.items() if tuple(other) == tuple(shape) and key not in taken]
        best = max(likely, key=lambda key: _likeness(mine, key.split(".")), default=None)
        if best is not None and f".{best}".endswith(f".{mine[-2]}.weight"):
            keys[name] = best
            taken.add(best)
    return keys


def _likeness(mine: list[str], other: list[str]) -> tuple[int, int]:
    tail = 0
    for a, b in zip(reversed(mine), reversed(other), strict=False):
        if a != b:
            break
        tail += 1
    return tail, len(set(mine) & set(other))
