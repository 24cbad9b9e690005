"""What an unfinished run keeps on disk for the one that goes on: whole, of this very run, or not used."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ressa.files import fresh_file, say_damaged

_NOTE = "note"
_SUM = "crc32"


def keep_tensors(path: Path, tensors: Mapping[str, Tensor], **note: Any) -> None:
    """Write one safetensors file in one step. note: JSON-able, such as the identity of the run it belongs to."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with fresh_file(path) as work:
        save_file(plain, work, metadata={_NOTE: json.dumps(note | {_SUM: _sum(plain)})})


def kept_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The tensors and the note of such a file; None if there is none, or none that is whole, which is said."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            note = json.loads(file.metadata()[_NOTE])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if note.pop(_SUM) == _sum(tensors):
            return tensors, note
    except (SafetensorError, OSError, ValueError, TypeError, KeyError):
        pass
    say_damaged(path)
    return None


def _sum(tensors: Mapping[str, Tensor]) -> int:
    """A checksum of all values, in the order of their names."""
    found = 0
    for name in sorted(tensors):
        found = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, found)
    return found
