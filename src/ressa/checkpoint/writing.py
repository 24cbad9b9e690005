"""A safetensors file written tensor by tensor: its header is known beforehand, so no two tensors are in memory."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

# In the order in which the safetensors library lays tensors out, so that the same tensors make the same file.
_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1}
_BYTES |= {"I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4}
_BYTES |= {"C64": 8, "F64": 8, "I64": 8, "U64": 8}


@dataclass(frozen=True)
class Entry:
    """A tensor to be written. dtype: as safetensors spells it, such as BF16."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * _BYTES[self.dtype]


def write_tensors(path: Path, entries: Mapping[str, Entry], read: Callable[[str], Tensor]) -> None:
    """Write a safetensors file as the library itself would. read: key → tensor, called once for each, in order."""
    keys = _order(entries)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for key in keys:
        end = begin + entries[key].nbytes
        header[key] = {
            "dtype": entries[key].dtype,
            "shape": list(entries[key].shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for key in keys:
            raw = read(key).detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            assert raw.nbytes == entries[key].nbytes, f"{key} is not of the size that was announced"
            file.write(raw.data)


def _order(entries: Mapping[str, Entry]) -> Iterable[str]:
    ranks = list(_BYTES)
    return sorted(entries, key=lambda key: (-ranks.index(entries[key].dtype), key))
