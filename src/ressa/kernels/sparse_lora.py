"""SparseLoRA's linear layer, lean: y = x W'ᵀ + bias with W' = W⊙M + s·(BA)⊙M.

Source: "Rethinking Pruning for Vision-Language Models" (arXiv 2404.02424), the SparseLoRA equation. The mask
covers W too, so that the dense weight of the teacher and the sparse one of the student are one tensor.

    forward   W' into a temporary;  y = x W'ᵀ
    backward  G = dYᵀ x into a temporary;  dA = s·Bᵀ(G⊙M),  dB = s·(G⊙M)Aᵀ, and W' in G's place;  dX = dY W'

Between the two only x, W, the packed mask, A and B are kept, all but x of which exist anyway: neither the
product BA nor W' nor a second out×in buffer. Autograd on the formula as written keeps two and makes four.
G comes before dX, so that the partial sums of dA and dB are gone when dX is made.

Symbols and the plain torch definitions: `sparse_lora_torch`. The kernels for GPUs: `sparse_lora_triton`.
"""

import importlib
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from ressa.errors import UsageError
from ressa.kernels import sparse_lora_torch
from ressa.kernels.has_triton import HAS_TRITON
from ressa.kernels.sparse_lora_torch import without_autocast


def _implementation(tensor: Tensor) -> ModuleType:
    """The Triton kernels where they can run, else plain torch."""
    if HAS_TRITON and tensor.is_cuda and tensor.dtype != torch.float64:
        return _triton_kernels()
    return sparse_lora_torch


@cache
def _triton_kernels() -> ModuleType:
    """Imported when first needed: it takes a moment, and CPUs do without."""
    return importlib.import_module("ressa.kernels.sparse_lora_triton")


@torch.no_grad()
def masked(weight: Tensor, packed_mask: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """W⊙M (out, in), +0 where masked, rounded to `dtype` (default: the weight's own), in memory of its own.

    packed_mask: uint8 (out, ceil(in / 8)).
    """
    if _is_traced():
        return sparse_lora_torch.masked_in_one(weight, packed_mask, dtype or weight.dtype)
    implementation = sparse_lora_torch if dtype == torch.float64 else _implementation(weight)
    return implementation.masked(weight, packed_mask, dtype or weight.dtype)


@torch.no_grad()
def effective_weight(
    weight: Tensor,
    packed_mask: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    scaling: float,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """W' = W⊙M + s·(BA)⊙M.

    weight (out, in), packed_mask (out, ceil(in/8)) uint8, lora_a (r, in), lora_b (out, r) → (out, in) in
    `dtype` (default: the weight's). Summed in fp32 (fp64 for fp64), rounded once; dropped weights are +0.0.
    """
    out = torch.empty(weight.shape, dtype=dtype or weight.dtype, device=weight.device)
    return _implementation(out).effective_weight(weight, packed_mask, lora_a, lora_b, scaling, out)


@torch.no_grad()
def masked_reduction(
    gradient: Tensor,
    packed_mask: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    scaling: float,
    *,
    weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """dA = s·Bᵀ(G⊙M) (r, in) and dB = s·(G⊙M)Aᵀ (out, r) from G (out, in), which may be overwritten.

    weight: W, where W' is to take G's place in `gradient`.
    """
    return _implementation(gradient).masked_reduction(gradient, packed_mask, lora_a, lora_b, scaling, weight)


@torch.no_grad()
def masked_gradients(
    grad_out: Tensor,
    x: Tensor,
    packed_mask: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    scaling: float,
    *,
    buffer: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """dA (r, in) and dB (out, r), in the dtypes of A and B, from grad_out (n, out) and x (n, in).

    buffer: (out, in) in x's dtype, overwritten with G = grad_outᵀ x; made here when None.
    """
    gradient = torch.mm(grad_out.t(), x, out=buffer)
    return masked_reduction(gradient, packed_mask, lora_a, lora_b, scaling)


def sparse_lora_linear(
    x: Tensor,
    weight: Tensor,
    packed_mask: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    scaling: float,
    bias: Tensor | None = None,
) -> Tensor:
    """y = x (W⊙M + s·(BA)⊙M)ᵀ + bias, differentiable in x, A, B and bias.

    x (..., in) in the weight's dtype (any under autocast, where the product is made in autocast's dtype);
    weight (out, in), frozen; packed_mask (out, ceil(in/8)) uint8; lora_a (r, in) and lora_b (out, r) in one
    dtype, which their gradients have too; bias (out,). Returns (..., out).

    Raises UsageError for a trainable weight, or for shapes or dtypes that do not belong together.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):
        if x.dtype != torch.float64:
            x = x.to(torch.get_autocast_dtype(device))
    elif x.dtype != weight.dtype:
        raise UsageError(f"the input is {x.dtype} but the weight {weight.dtype}: cast one, or use autocast")
    if weight.requires_grad:
        raise UsageError("SparseLoRA's base weight must be frozen: call weight.requires_grad_(False)")
    rows, columns = weight.shape
    if packed_mask.shape != (rows, (columns + 7) // 8) or packed_mask.dtype != torch.uint8:
        raise UsageError(
            f"a packed mask for a weight {rows}×{columns} must be uint8 {rows}×{(columns + 7) // 8}, "
            f"not {packed_mask.dtype} {'×'.join(map(str, packed_mask.shape))}"
        )
    rank = lora_a.shape[0]
    if lora_a.shape != (rank, columns) or lora_b.shape != (rows, rank) or lora_a.dtype != lora_b.dtype:
        raise UsageError(f"A must be (r, {columns}) and B ({rows}, r), both of one dtype")
    return _SparseLoraLinear.apply(x, weight, packed_mask, lora_a, lora_b, scaling, bias)


def masked_linear(x: Tensor, weight: Tensor, packed_mask: Tensor, bias: Tensor | None = None) -> Tensor:
    """y = x (W⊙M)ᵀ + bias, differentiable in x and bias; W⊙M is not kept for the backward.

    The same as `sparse_lora_linear` without factors: for pruned layers that are not tuned.
    """
    rows, columns = weight.shape
    none = weight.new_empty(0)
    return sparse_lora_linear(x, weight, packed_mask, none.view(0, columns), none.view(rows, 0), 1.0, bias)


class _SparseLoraLinear(torch.autograd.Function):
    """The two operators below, joined; what is saved here is all that lives until the backward.

    Where nobody traces, their functions are called as they are: a small layer's time is the host's.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        packed_mask: Tensor,
        lora_a: Tensor,
        lora_b: Tensor,
        scaling: float,
        bias: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, packed_mask, lora_a, lora_b)
        ctx.scaling = scaling
        ctx.bias_dtype = None if bias is None else bias.dtype
        forward = torch.ops.ressa.sparse_lora_forward.default if _is_traced() else _forward
        return forward(x, weight, packed_mask, lora_a, lora_b, scaling, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, packed_mask, lora_a, lora_b = ctx.saved_tensors
        need_x, _, _, need_a, need_b, _, need_bias = ctx.needs_input_grad
        backward = torch.ops.ressa.sparse_lora_backward.default if _is_traced() else _backward
        grad_x, grad_a, grad_b = backward(
            grad_out, x, weight, packed_mask, lora_a, lora_b, ctx.scaling, need_x, need_a or need_b
        )
        grad_bias = None
        if need_bias:
            grad_bias = grad_out.reshape(-1, weight.shape[0]).sum(0).to(ctx.bias_dtype)
        return (
            grad_x if need_x else None,
            None,
            None,
            grad_a if need_a else None,
            grad_b if need_b else None,
            None,
            grad_bias,
        )


def _is_traced() -> bool:
    """Whether torch.compile, torch.export or a dispatch mode (fake tensors, make_fx) watches the calls."""
    return torch.compiler.is_compiling() or is_in_torch_dispatch_mode()


# Registered as operators so that torch.compile keeps each whole. Traced through, its common-subexpression
# pass would find W' of the forward and of the backward to be one value, and keep it in between.
_library = torch.library.Library("ressa", "FRAGMENT")
_library.define(
    "sparse_lora_forward(Tensor x, Tensor weight, Tensor packed_mask, Tensor lora_a, Tensor lora_b, "
    "float scaling, Tensor? bias) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    "sparse_lora_backward(Tensor grad_out, Tensor x, Tensor weight, Tensor packed_mask, Tensor lora_a, "
    "Tensor lora_b, float scaling, bool need_x, bool need_lora) -> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def _forward(
    x: Tensor,
    weight: Tensor,
    packed_mask: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    scaling: float,
    bias: Tensor | None,
) -> Tensor:
    effective = x.new_empty(weight.shape)
    _implementation(x).effective_weight(weight, packed_mask, lora_a, lora_b, scaling, effective)
    y = torch.nn.functional.linear(x, effective, None if bias is None else bias.to(x.dtype))
    # Models may write into what a layer gives (GroupViT), and autograd lets nobody write into a function's view.
    return torch.ops.aten._unsafe_view(y, y.shape) if y._is_view() else y


@without_autocast
def _backward(
    grad_out: Tensor,
    x: Tensor,
    weight: Tensor,
    packed_mask: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    scaling: float,
    need_x: bool,
    need_lora: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """dX, dA, dB; an empty tensor for each that is not needed."""
    grad_x = grad_a = grad_b = buffer = None
    kernels = _implementation(x)
    rows = grad_out if grad_out.dim() == 2 else grad_out.reshape(-1, weight.shape[0])
    if need_lora:
        buffer = torch.mm(rows.t(), x if x.dim() == 2 else x.reshape(-1, weight.shape[1]))
        grad_a, grad_b = kernels.masked_reduction(
            buffer, packed_mask, lora_a, lora_b, scaling, weight if need_x else None
        )
    if need_x:
        if buffer is None:
            buffer = x.new_empty(weight.shape)
            kernels.effective_weight(weight, packed_mask, lora_a, lora_b, scaling, buffer)
        grad_x = torch.mm(rows, buffer).view(x.shape)
    return (
        x.new_empty(0) if grad_x is None else grad_x,
        lora_a.new_empty(0) if grad_a is None else grad_a,
        lora_b.new_empty(0) if grad_b is None else grad_b,
    )


def _forward_fake(
    x: Tensor,
    weight: Tensor,
    packed_mask: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    scaling: float,
    bias: Tensor | None,
) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _backward_fake(
    grad_out: Tensor,
    x: Tensor,
    weight: Tensor,
    packed_mask: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    scaling: float,
    need_x: bool,
    need_lora: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        x.new_empty(x.shape if need_x else 0),
        lora_a.new_empty(lora_a.shape if need_lora else 0),
        lora_b.new_empty(lora_b.shape if need_lora else 0),
    )


_library.impl("sparse_lora_forward", _forward, "CompositeExplicitAutograd")
_library.impl("sparse_lora_backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake("ressa::sparse_lora_forward", _forward_fake, lib=_library)
torch.library.register_fake("ressa::sparse_lora_backward", _backward_fake, lib=_library)
