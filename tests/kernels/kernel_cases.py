"""Random SparseLoRA layers for the kernel tests, and the formula in fp64 that everything is held against."""

from dataclasses import dataclass

import torch
from torch import Tensor

# (out, in, rank): tile-sized, odd, in not a multiple of 8, a single element, more ranks than one slice.
SHAPES = [(64, 64, 8), (37, 19, 3), (1, 1, 1), (130, 300, 20), (300, 34, 2)]


def pack(mask: Tensor) -> Tensor:
    """bool (out, in) → uint8 (out, ceil(in/8)), bit i of byte j = column 8j+i; not the package's own."""
    rows, columns = mask.shape
    padded = torch.zeros(rows, (columns + 7) // 8 * 8, dtype=torch.int64)
    padded[:, :columns] = mask
    weights = 2 ** torch.arange(8)
    return (padded.view(rows, -1, 8) * weights).sum(-1).to(torch.uint8)


@dataclass
class Layer:
    """One layer and one batch: x (n, in), grad_out (n, out), the rest as in `ressa.kernels.sparse_lora`."""

    x: Tensor
    weight: Tensor
    mask: Tensor
    packed: Tensor
    lora_a: Tensor
    lora_b: Tensor
    bias: Tensor
    grad_out: Tensor
    scaling: float = 2.0


def layer(
    shape: tuple[int, int, int],
    dtype: torch.dtype = torch.float32,
    factors: torch.dtype | None = None,
    tokens: int = 12,
    device: str = "cpu",
    seed: int = 0,
) -> Layer:
    """Random, nowhere zero but where the mask says; A, B and bias require gradients."""
    rows, columns, rank = shape
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int, kind: torch.dtype = dtype) -> Tensor:
        return torch.randn(*size, generator=generator).to(kind).to(device)

    mask = torch.rand(rows, columns, generator=generator) > 0.5
    mask[0, 0] = True
    made = Layer(
        x=draw(tokens, columns),
        weight=draw(rows, columns),
        mask=mask.to(device),
        packed=pack(mask).to(device),
        lora_a=draw(rank, columns, kind=factors or dtype),
        lora_b=draw(rows, rank, kind=factors or dtype),
        bias=draw(rows),
        grad_out=draw(tokens, rows),
    )
    for tensor in (made.lora_a, made.lora_b, made.bias):
        tensor.requires_grad_()
    return made


def exact_weight(case: Layer) -> Tensor:
    """W' = (W + s·BA)⊙M in fp64."""
    product = case.lora_b.detach().double() @ case.lora_a.detach().double()
    return (case.weight.double() + case.scaling * product) * case.mask


def exact_reduction(case: Layer, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """dA = s·Bᵀ(G⊙M) and dB = s·(G⊙M)Aᵀ in fp64."""
    masked = gradient.double() * case.mask
    grad_a = case.scaling * case.lora_b.detach().double().t() @ masked
    return grad_a, case.scaling * masked @ case.lora_a.detach().double().t()


def error(found: Tensor, exact: Tensor) -> float:
    """‖found − exact‖ / ‖exact‖."""
    return ((found.double() - exact).norm() / exact.norm()).item()
