"""Blocks that an interrupted pruning run had finished, kept on disk until the result is saved."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ressa.anatomy import Block
from ressa.errors import RunError, UsageError
from ressa.files import write_json
from ressa.sparsity import PackedMasks, as_packed


def claim(folder: Path, identity: str) -> None:
    """Make a folder the work folder of a pruning run. identity: whatever decides the result; a folder that holds
    unfinished work of another identity is refused with a UsageError."""
    note = folder / "pruning.json"
    if not note.is_file():
        write_json(note, {"identity": identity})
    elif json.loads(note.read_text(encoding="utf-8")).get("identity") != identity:
        raise UsageError(
            f"{folder} holds unfinished work of another recipe, model or calibration set: "
            "delete it, or choose another folder."
        )


class FinishedBlocks:
    """One file a finished block: its masks, and its pruned weights where the method changed those that are kept.
    A file is complete or absent.

    identity: whatever decides the result; blocks of another identity are refused with a UsageError.
    """

    def __init__(self, folder: str | Path, identity: str, *, keeps_weights: bool = True) -> None:
        self.folder = Path(folder)
        self.keeps_weights = keeps_weights
        claim(self.folder, identity)

    def keep(self, block: Block, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
        """Write down one block. weights, masks: layer name → (out, in)."""
        at_rest = as_packed(masks)
        tensors = {f"{name}.mask": at_rest.packed(name) for name in at_rest}
        if self.keeps_weights:
            tensors |= {f"{name}.weight": weight.cpu().contiguous() for name, weight in weights.items()}
        path = self._path(block)
        unfinished = path.with_suffix(".tmp")
        save_file(tensors, unfinished)
        unfinished.replace(path)

    @torch.no_grad()
    def restore(self, blocks: Sequence[Block], modules: Mapping[str, nn.Module]) -> PackedMasks:
        """Make the finished blocks of a dense model what they were; returns their masks."""
        masks = PackedMasks()
        for block in blocks:
            path = self._path(block)
            if not path.is_file():
                continue
            try:
                tensors = load_file(path)
            except SafetensorError as error:
                raise RunError(
                    f"{path} cannot be read ({error}): delete its folder and start again."
                ) from error
            for name in block.linears:
                if f"{name}.mask" not in tensors:
                    continue
                weight: Any = modules[name].weight
                masks.add(name, tensors[f"{name}.mask"], weight.shape[1])
                if self.keeps_weights:
                    weight.copy_(tensors[f"{name}.weight"])
                else:
                    weight.masked_fill_(~masks[name].to(weight.device), 0)
        return masks

    def _path(self, block: Block) -> Path:
        return self.folder / f"{block.name}.safetensors"
