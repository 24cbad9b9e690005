"""Splitting a model's fused modules, and joining them again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

from torch import nn

from ressa.fused import attention, conv1d
from ressa.fused.experts import SplitExperts, layout_of
from ressa.fused.part import Part
from ressa.fused.stand_in import Split, Views

F = TypeVar("F", bound=Callable[..., Any])


def _stand_in(module: nn.Module) -> Callable[[Views], Split] | None:
    """What would replace a module; None for one that is not fused, or in a way that is not known."""
    if isinstance(module, nn.MultiheadAttention):
        return (lambda views: attention.SplitAttention(module, views)) if attention.splits(module) else None
    if conv1d.splits(module):
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


def on_plain_linears(function: F) -> F:
    """A function whose first argument is a model, or holds one as `model`, that runs while the model is split."""

    @wraps(function)
    def run(first: Any, *args: Any, **kwargs: Any) -> Any:
        with splitted(first if isinstance(first, nn.Module) else first.model):
            return function(first, *args, **kwargs)

    return cast(F, run)


@contextmanager
def splitted(model: nn.Module) -> Iterator[None]:
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
