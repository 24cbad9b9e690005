"""Blocks that an interrupted pruning run had finished, kept on disk until the result is saved."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ressa.anatomy import Block
from ressa.checkpoint.kept import keep_tensors, kept_tensors
from ressa.errors import UsageError
from ressa.files import read_json, write_json
from ressa.processes import is_first
from ressa.progress import say
from ressa.sparsity import PackedMasks, as_packed


def claim(folder: Path, identity: str, *, force: bool = False) -> None:
    """Make a folder the work folder of a pruning run. identity: whatever decides the result; a folder that holds
    unfinished work of another identity is refused with a UsageError, or on `force` loses it. Where the note that says
    whose it is was damaged, no block counts as finished."""
    note = folder / "pruning.json"
    begun = read_json(note)
    if begun is None or (force and begun != {"identity": identity}):
        if is_first():
            for path in folder.glob("*.safetensors"):
                path.unlink()
            write_json(note, {"identity": identity})
    elif begun != {"identity": identity}:
        refuse(folder)


def refuse(folder: Path) -> NoReturn:
    """Raises UsageError: the folder is another run's."""
    raise UsageError(
        f"{folder} holds unfinished work of another recipe, model or calibration set: "
        "delete it (or give --force, which drops it), or choose another folder."
    )


def say_how_far(finished: int, blocks: Sequence[Block]) -> None:
    """Say how many blocks a run that goes on need not prune again, if any."""
    if finished:
        say(f"An earlier run finished {finished} of {len(blocks)} blocks: going on from there.")


class FinishedBlocks:
    """One file a finished block: its masks, its pruned weights where the method changed those that are kept, and
    the identity of the run that it belongs to. Of several processes the first writes.
    """

    def __init__(self, folder: str | Path, *, keeps_weights: bool = True) -> None:
        self.folder, self.identity = Path(folder), ""
        self.keeps_weights = keeps_weights

    def claim(self, identity: str, *, force: bool = False) -> None:
        """Make the folder this run's. Raises UsageError if it holds unfinished work of another identity, unless that
        is to be dropped (`force`)."""
        self.identity = identity
        claim(self.folder, identity, force=force)

    def keep(self, block: Block, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
        """Write down one block. weights, masks: layer name → (out, in)."""
        if not is_first():
            return
        at_rest = as_packed(masks)
        tensors = {f"{name}.mask": at_rest.packed(name) for name in at_rest}
        if self.keeps_weights:
            tensors |= {f"{name}.weight": weight for name, weight in weights.items()}
        keep_tensors(self._path(block), tensors, identity=self.identity)

    @torch.no_grad()
    def restore(self, blocks: Sequence[Block], modules: Mapping[str, nn.Module]) -> PackedMasks:
        """Make the finished blocks of a dense model what they were; returns their masks.

        A block whose file is damaged counts as not finished, and that is said.
        """
        masks = PackedMasks()
        finished = 0
        for block in blocks:
            kept = kept_tensors(self._path(block))
            if kept is None:
                continue
            tensors, note = kept
            if note.get("identity") != self.identity:
                refuse(self.folder)
            finished += 1
            for name in block.linears:
                if f"{name}.mask" not in tensors:
                    continue
                weight: Any = modules[name].weight
                masks.add(name, tensors[f"{name}.mask"], weight.shape[1])
                if self.keeps_weights:
                    weight.copy_(tensors[f"{name}.weight"])
                else:
                    weight.masked_fill_(~masks[name].to(weight.device), 0)
        say_how_far(finished, blocks)
        return masks

    def _path(self, block: Block) -> Path:
        return self.folder / f"{block.name}.safetensors"
