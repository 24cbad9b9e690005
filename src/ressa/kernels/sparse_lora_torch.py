"""What the SparseLoRA kernels compute, in plain torch: the definition, and the path taken on the CPU.

Symbols, used in all three files: weight W (out, in), lora_a A (r, in), lora_b B (out, r), scaling s,
mask M (out, in) packed to (out, ceil(in/8)) uint8 where bit i of byte j is column 8j+i and 1 means kept.
"""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

import torch
from torch import Tensor

# An integer as wide as the float: masking is a bitwise AND with all ones or all zeros, which gives +0.0 even
# for NaN and inf and is several times faster on a CPU than torch.where or masked_fill with a bool mask.
_INTEGER = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
}


@lru_cache
def _expanded_bytes(dtype: torch.dtype, device: torch.device) -> Tensor:
    """(256, 8) integers: row b holds, for each bit of the byte b, all ones where it is set and else 0."""
    bits = torch.arange(256, device=device)[:, None] >> torch.arange(8, device=device) & 1
    return -bits.to(dtype)


def apply_mask_(tensor: Tensor, packed_mask: Tensor) -> Tensor:
    """Set every element of `tensor` (out, in) whose bit in `packed_mask` is 0 to +0.0, in place."""
    rows, columns = tensor.shape
    integer = _INTEGER[tensor.dtype]
    table = _expanded_bytes(integer, tensor.device)
    keep = table.index_select(0, packed_mask.reshape(-1).int()).view(rows, -1)
    tensor.view(integer).bitwise_and_(keep[:, :columns])
    return tensor


def without_autocast(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` (of tensors, on the first one's device) as it is outside autocast, which would round its sums."""

    @wraps(function)
    def wrapped(tensor: Tensor, *arguments: Any) -> Any:
        device = tensor.device.type
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return function(tensor, *arguments)
        return function(tensor, *arguments)

    return wrapped


def masked(weight: Tensor, packed_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """W⊙M (out, in), rounded to `dtype`, in memory of its own."""
    return apply_mask_(weight.to(dtype, copy=True, memory_format=torch.contiguous_format), packed_mask)


def masked_in_one(weight: Tensor, packed_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """The same in operations that a compiler joins into one pass: `apply_mask_` reads a table."""
    return torch.where(kept(packed_mask, weight.shape[1]), weight, 0).to(dtype)


def kept(packed_mask: Tensor, columns: int) -> Tensor:
    """bool (out, columns), by operations that a GPU or a compiler runs where the mask is."""
    bits = packed_mask.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8, device=packed_mask.device) & 1
    return bits.flatten(1)[:, :columns].bool()


@without_autocast
def effective_weight(
    weight: Tensor, packed_mask: Tensor, lora_a: Tensor, lora_b: Tensor, scaling: float, out: Tensor
) -> Tensor:
    """out = W⊙M + s·(BA)⊙M, (out, in), rounded once to the dtype of `out`."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    total = out if out.dtype == wide else torch.empty_like(out, dtype=wide)
    torch.addmm(weight.to(wide), lora_b.to(wide), lora_a.to(wide), alpha=scaling, out=total)
    apply_mask_(total, packed_mask)
    return out if out is total else out.copy_(total)


@without_autocast
def masked_reduction(
    gradient: Tensor,
    packed_mask: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    scaling: float,
    weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """dA = s·Bᵀ(G⊙M) (r, in) and dB = s·(G⊙M)Aᵀ (out, r), in the dtypes of A and B.

    gradient: G = dYᵀX (out, in), the gradient of the full weight; it is masked in place. Where the weight is
    given, W' takes its place.
    """
    wide = torch.promote_types(gradient.dtype, torch.float32)
    masked = apply_mask_(gradient, packed_mask).to(wide)
    grad_a = torch.mm(lora_b.to(wide).t(), masked).mul_(scaling)
    grad_b = torch.mm(masked, lora_a.to(wide).t()).mul_(scaling)
    if weight is not None:
        effective_weight(weight, packed_mask, lora_a, lora_b, scaling, gradient)
    return grad_a.to(lora_a.dtype), grad_b.to(lora_b.dtype)
