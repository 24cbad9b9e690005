"""What a repair does to a model's weights around the training: sharing, masking, checking, putting back."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import cast

import torch
from torch import Tensor, nn

from ressa.checkpoint import size_of
from ressa.errors import RunError, UsageError
from ressa.processes import are_several
from ressa.sparsity.mask import as_packed, count_packed, pack_nonzero
from ressa.warned import warn

AT_HAND = 8  # times what models take must be free on a GPU for them to stay there
Masks = Mapping[str, Tensor]  # layer name → bool (out, in), True = kept
DenseWeights = nn.Module | Mapping[str, Tensor]  # the dense model, or its parameters by name


def weight_of(model: nn.Module, layer: str) -> nn.Parameter:
    """The weight (out, in) of a layer by its dotted name."""
    return cast(nn.Parameter, model.get_submodule(layer).weight)


def differing_weight(model: nn.Module, masks: Masks, dense: DenseWeights) -> str | None:
    """The first parameter, by name, in which the pruned model differs from the dense one beyond its masks.

    None means that W_pruned = W_dense⊙M everywhere, so that one copy of the dense weights serves both.
    """
    theirs = _tensors(dense)
    for name, parameter in model.named_parameters():
        ours = parameter.detach()
        other = theirs[name].detach().to(ours.device, ours.dtype)
        mask = masks.get(name.removesuffix(".weight"))
        if mask is not None:
            other = torch.where(mask.to(ours.device), other, 0)
        if not torch.equal(ours, other):
            return name
    return None


def check_dense(model: nn.Module, dense: DenseWeights, pruned: Collection[str]) -> None:
    """Raises UsageError if `dense` is a model of another shape or holds no numbers (NaN), and warns if it is another
    one of the same shape.

    pruned: the layers that pruning or a repair may have changed; all else must be the same.
    """
    theirs, other = _tensors(dense), None
    if more := sorted(theirs.keys() - dict(model.named_parameters())) if isinstance(dense, nn.Module) else []:
        raise UsageError(
            f"The dense model has {len(more)} weights that the pruned one lacks (such as {more[0]}): give the model "
            "that was pruned."
        )
    for name, parameter in model.named_parameters():
        if name not in theirs or theirs[name].shape != parameter.shape:
            raise UsageError(
                f"The dense model has no {name} of the same shape: give the model that was pruned."
            )
        if not torch.isfinite(theirs[name].detach().sum(dtype=torch.float32)):  # a sum with NaN in it is none
            raise UsageError(
                f"The dense model's {name} holds NaN or infinity, so it can teach nothing: its checkpoint is damaged."
            )
        if other is None and name.rpartition(".")[0] not in pruned:
            ours = parameter.detach()
            if not torch.equal(ours, theirs[name].detach().to(ours.device, ours.dtype)):
                other = name
    if other is not None:
        warn(
            f"The dense model's {other} is not the pruned model's, though pruning does not touch it: make sure that "
            "the dense model is the one that was pruned."
        )


def adopt_dense_weights(model: nn.Module, masks: Masks, dense: DenseWeights) -> None:
    """Give each masked layer the dense weights; the storage is that of `dense` if dtype and device are."""
    theirs = _tensors(dense)
    for name in masks:
        weight = weight_of(model, name)
        weight.data = theirs[f"{name}.weight"].detach().to(weight.device, weight.dtype)


def mask_weights(model: nn.Module, masks: Masks) -> None:
    """W ← W⊙M in each masked layer, in storage of its own."""
    for name, mask in masks.items():
        weight = weight_of(model, name)
        weight.data = torch.where(mask.to(weight.device), weight.data, 0)


def check_masks(model: nn.Module, masks: Masks, *, error: type[UsageError | RunError] = UsageError) -> None:
    """Raise `error` unless each mask fits a layer whose weights are all zero where the mask is off."""
    layers, at_rest = dict(model.named_modules()), as_packed(masks)
    for name in at_rest:
        weight = getattr(layers.get(name), "weight", None)
        if weight is None or tuple(weight.shape) != (len(at_rest.packed(name)), at_rest.width(name)):
            raise error(
                f"The model has no layer {name} of the shape of its mask: give the model's own masks."
            )
        if (pack_nonzero(weight) & ~at_rest.packed(name)).any():
            raise error(f"{name} has weights where its mask says zero: the masks are not of this model.")


def sparsity(model: nn.Module, masks: Masks) -> float:
    """Share of zeros among the weights of the masked layers, counted."""
    weights = [weight_of(model, name) for name in masks]
    total = sum(weight.numel() for weight in weights)
    return (total - sum(count_packed(pack_nonzero(weight)) for weight in weights)) / max(1, total)


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Afterwards every parameter and buffer is on the device and of the dtype it was, and as trainable."""
    named = chain(model.named_parameters(), model.named_buffers())
    before = {name: (tensor.device, tensor.dtype, tensor.requires_grad) for name, tensor in named}
    training = model.training
    try:
        yield
    finally:
        for name, tensor in chain(model.named_parameters(), model.named_buffers()):
            if name not in before:  # an error left something in the model
                continue
            device, dtype, trainable = before[name]
            tensor.grad = None
            tensor.data = tensor.data.to(device, dtype)
            tensor.requires_grad_(trainable)
        model.train(training)


@contextmanager
def at_hand(model: nn.Module, dense: object, device: torch.device) -> Iterator[None]:
    """Within this context a model and the dense one, where both are small beside a GPU's memory, are on it whole: none
    of their blocks has to come for each of its turns. Whoever is `restored` goes home afterwards, and so does dense."""
    models = [each for each in (model, dense) if isinstance(each, nn.Module)]
    with ExitStack() as stack:
        if device.type == "cuda" and not are_several():
            free, _ = torch.cuda.mem_get_info(device)
            if AT_HAND * sum(map(size_of, models)) < free:
                for each in models[1:]:
                    stack.enter_context(restored(each))
                for each in models:
                    each.to(device)
        yield


def _tensors(dense: DenseWeights) -> Mapping[str, Tensor]:
    return dict(dense.named_parameters()) if isinstance(dense, nn.Module) else dense
