"""A tiny pruned VLM with its dense model, masks and training samples, for the tests of repair."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from data.vlms import VLMS
from dual.models import DUAL
from PIL import Image

from ressa.anatomy import find_anatomy
from ressa.data.sample import Sample

COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220)}


@dataclass
class TinyVlm:
    """What `repair` needs of a loaded VLM."""

    model: Any
    processor: Any
    source: str = "tiny"


def samples(count: int) -> list[Sample]:
    """Pictures of one colour and the question for it; the answers differ in length."""
    names = list(COLOURS)
    return [
        Sample(
            image=Image.new("RGB", (32, 32), COLOURS[names[i % 2]]),
            prompt="what is in the picture ?",
            target="it is red" if i % 2 == 0 else "blue",
            id=str(i),
        )
        for i in range(count)
    ]


def pruned_pair(
    family: str = "instructblip", *, dtype: torch.dtype = torch.float32, updated: bool = False
) -> tuple[TinyVlm, dict[str, torch.Tensor], TinyVlm]:
    """(pruned, masks, dense): half the weights of vision and language are zero, the connector is dense.

    updated: kept weights differ a little from the dense ones, as after SparseGPT.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, processor = (VLMS | DUAL)[family]()
    model = model.to(dtype)
    dense = TinyVlm(copy.deepcopy(model), processor)
    anatomy = find_anatomy(model)
    generator = torch.Generator().manual_seed(5)
    masks = {}
    for name in anatomy.linears("vision") + anatomy.linears("language"):
        weight = model.get_submodule(name).weight
        masks[name] = torch.rand(weight.shape, generator=generator) < 0.5
        weight.data *= masks[name] * (1.01 if updated else 1)
    return TinyVlm(model, processor), masks, dense


def without_dropout(model: Any) -> None:
    """No randomness in training: layers and attention functions."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def logits(vlm: TinyVlm, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return vlm.model(**batch).logits
