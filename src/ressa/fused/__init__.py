"""Fused weights as plain linears, and back: experts, packed attention projections, GPT-2's transposed linears.

Everything that prunes and repairs works on `nn.Linear`. Where a model keeps weights in another form, its module is
replaced for a while by one that computes the same with plain linears; their names are the layers' names
(`…mlp.experts.3.gate_proj`), as in checkpoints that store every expert apart.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn
from transformers.pytorch_utils import Conv1D

from ressa.fused import attention, conv1d
from ressa.fused.attention import SplitAttention
from ressa.fused.experts import ROWS, SplitExperts, layout_of
from ressa.fused.part import Part, Split, Views

__all__ = ["ROWS", "Part", "Split", "SplitAttention", "SplitExperts", "join", "parts", "split", "splitting"]


def _stand_in(module: nn.Module) -> Callable[[Views], Split] | None:
    """What would replace a module; None for one that is not fused, or in a way that is not known."""
    if isinstance(module, nn.MultiheadAttention):
        return (lambda views: attention.SplitAttention(module, views)) if attention.splits(module) else None
    if isinstance(module, Conv1D):
        return lambda views: conv1d.SplitConv1D(module, views)
    layout = layout_of(module)
    return None if layout is None else lambda views: SplitExperts(module, views, layout)


def split(model: nn.Module) -> list[str]:
    """Replace the fused modules of a model, in place; their names. What is split already stays so."""
    views: Views = {}
    found = {
        name: make(views)
        for name, module in model.named_modules()
        if name and not isinstance(module, Split) and (make := _stand_in(module)) is not None
    }
    for name, stand_in in found.items():
        stand_in.release()
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, stand_in)
    return list(found)


def join(model: nn.Module) -> None:
    """Put every module that `split` replaced back, its weights as they are now."""
    for name, module in list(model.named_modules()):
        if isinstance(module, Split):
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, module.join())


@contextmanager
def splitting(model: nn.Module) -> Iterator[None]:
    """A model whose linears are all plain; afterwards it is as it was, with the weights it has then."""
    if split(model):
        try:
            yield
        finally:
            join(model)
    else:
        yield


def parts(model: nn.Module) -> dict[str, Part]:
    """Layer name → where its weight lies in the model as it is saved; only layers that are split now."""
    found: dict[str, Part] = {}
    for name, module in model.named_modules():
        if isinstance(module, Split):
            for mine, part in module.parts.items():
                if mine.endswith(".weight"):
                    layer = f"{name}.{mine.removesuffix('.weight')}"
                    found[layer] = Part(f"{name}.{part.parameter}", part.index, part.rows, part.transposed)
    return found
