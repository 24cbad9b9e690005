"""A linear whose weight is masked as it is used: a pruned model over dense weights, or masked fine-tuning."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ressa.kernels import masked
from ressa.sparsity.mask import pack_mask, unpack_mask


class _MaskedWeight(torch.autograd.Function):
    """W⊙M, and G⊙M for the gradient. Both are one pass over memory; nothing but the mask is kept between."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, packed_mask: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(packed_mask)
        ctx.dtype = weight.dtype
        return masked(weight, packed_mask, dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (packed_mask,) = ctx.saved_tensors
        return masked(gradient, packed_mask, ctx.dtype), None, None


def masked_weight(weight: Tensor, packed_mask: Tensor) -> Tensor:
    """W⊙M, (out, in), +0 where masked; differentiable in W. packed_mask: uint8 (out, ceil(in / 8)).

    Under autocast it is made in the dtype in which autocast multiplies, which spares the conversions.
    """
    device, dtype = weight.device.type, weight.dtype
    if torch.is_autocast_enabled(device) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
    return _MaskedWeight.apply(weight, packed_mask, dtype)


class MaskedLinear(nn.Linear):
    """y = x (W⊙M)ᵀ + bias; with `bypass_mask`, y = x Wᵀ + bias.

    It holds the weight and bias of the linear it stands in for, under the same names, so that a state dict of
    the model is the same with it. The gradient of a masked entry of W is zero.
    """

    packed_mask: Tensor

    def __init__(self, linear: nn.Linear, packed_mask: Tensor) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.weight = linear.weight
        self.bias = linear.bias  # type: ignore[assignment]
        self.training = linear.training
        self.bypass_mask = False
        self.register_buffer("packed_mask", packed_mask.to(linear.weight.device), persistent=False)
        self.__dict__["original"] = linear  # not a submodule: its parameters are ours

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight if self.bypass_mask else masked_weight(self.weight, self.packed_mask)
        return F.linear(x, weight, self.bias)


def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Put a MaskedLinear in the place of each named linear. masks: layer name → bool (out, in)."""
    for name, mask in masks.items():
        model.set_submodule(name, MaskedLinear(model.get_submodule(name), pack_mask(mask)))  # type: ignore[arg-type]


def bake_masks(model: nn.Module) -> None:
    """Undo `apply_masks`: the original linears again, with W⊙M as their weight, in storage of its own."""
    for name, module in list(model.named_modules()):
        if isinstance(module, MaskedLinear):
            mask = unpack_mask(module.packed_mask, module.in_features)
            original: nn.Linear = module.__dict__["original"]
            original.weight = module.weight
            original.weight.data = torch.where(mask, module.weight.data, 0)
            original.bias = module.bias
            original.training = module.training
            model.set_submodule(name, original)
