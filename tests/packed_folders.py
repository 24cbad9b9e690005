"""Sparse and packed folders for tests; as a program, a packing that dies in its middle: `… SOURCE OUTPUT`."""

import os
import signal
import sys
from pathlib import Path

import torch
from families import Family

from ressa.allocation import per_tower
from ressa.anatomy import find_anatomy
from ressa.checkpoint import Manifest, Vlm, load, pack_folder, save
from ressa.progress import Lines
from ressa.pruning import prune
from ressa.sparsity import NM, Unstructured


def save_sparse(folder: Path, vlm: Vlm, *, shard: str = "5GB") -> Path:
    """Vision 2:4, language 70 %; among the kept weights of each layer a 0 and a −0."""
    model = vlm.model
    plan = per_tower(find_anatomy(model), model, {"vision": NM(2, 4), "language": Unstructured(0.7)})
    result = prune(model, [], plan=plan, method="magnitude")
    for name, mask in result.masks.items():
        weight, kept = model.get_submodule(name).weight.data, mask.nonzero()
        weight[tuple(kept[0])] = 0.0
        weight[tuple(kept[-1])] = -0.0
    manifest = Manifest(kind="pruned", source=vlm.source, plan=result.plan.to_dict())
    save(folder, vlm, manifest=manifest, masks=result.masks, max_shard_size=shard)
    return folder


def sparse_family(folder: Path, family: Family, dtype: torch.dtype = torch.bfloat16, **options: str) -> Path:
    return save_sparse(folder, Vlm(family.model().to(dtype), None, family.name), **options)


def sparse_embedded(folder: Path, name: str) -> Path:
    return save_sparse(folder, load(name))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


if __name__ == "__main__":
    advance = Lines.advance  # a child writes to no terminal

    def die_in_the_middle(self, *arguments, **options):
        advance(self, *arguments, **options)
        if list(Path(sys.argv[2]).parent.glob(".*/*.safetensors")):
            os.kill(os.getpid(), signal.SIGKILL)

    Lines.advance = die_in_the_middle
    pack_folder(*sys.argv[1:])
