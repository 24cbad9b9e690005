"""Blocks that an interrupted pruning run had finished, kept on disk until the result is saved."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ressa.anatomy import Block
from ressa.errors import RunError, UsageError
from ressa.files import write_json
from ressa.sparsity import pack_mask, unpack_mask


class FinishedBlocks:
    """One file a finished block: its pruned weights and their masks. A file is complete or absent.

    identity: whatever decides the result; blocks of another identity are refused with a UsageError.
    """

    def __init__(self, folder: str | Path, identity: str) -> None:
        self.folder = Path(folder)
        note = self.folder / "pruning.json"
        if note.is_file():
            if json.loads(note.read_text(encoding="utf-8")).get("identity") != identity:
                raise UsageError(
                    f"{self.folder} holds unfinished work of another recipe, model or calibration set: "
                    "delete it, or choose another folder."
                )
        else:
            write_json(note, {"identity": identity})

    def keep(self, block: Block, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
        """Write down one block. weights, masks: layer name → (out, in)."""
        tensors = {f"{name}.weight": weight.cpu().contiguous() for name, weight in weights.items()}
        tensors |= {f"{name}.mask": pack_mask(mask.cpu()) for name, mask in masks.items()}
        path = self._path(block)
        unfinished = path.with_suffix(".tmp")
        save_file(tensors, unfinished)
        unfinished.replace(path)

    @torch.no_grad()
    def restore(self, blocks: Sequence[Block], modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """Put the weights of finished blocks into the model; returns their masks, layer → bool (out, in)."""
        masks: dict[str, Tensor] = {}
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
            for key, tensor in tensors.items():
                name, _, what = key.rpartition(".")
                weight: Tensor = modules[name].weight  # type: ignore[assignment]
                if what == "weight":
                    weight.copy_(tensor)
                else:
                    masks[name] = unpack_mask(tensor, weight.shape[1])
        return masks

    def _path(self, block: Block) -> Path:
        return self.folder / f"{block.name}.safetensors"
