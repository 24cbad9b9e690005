"""The upper factor U of an inverse, UᵀU = H⁻¹, in little more memory than H."""

import torch
from torch import Tensor

from ressa.calibration.precision import full_precision

LEAST_PIVOT = 1e-6  # of a mean diagonal of 1: below it fp32 cannot tell a pivot from rounding
_DIRECT = 2048  # inputs up to which a triangular solve beats products of halves
_ROWS = 1024


def inverse_cholesky_(H: Tensor) -> Tensor | None:
    """Upper U (in, in) with UᵀU = H⁻¹, or None if H is not positive definite as far as fp32 can tell.

    H: fp32 (in, in), its diagonal about 1; its memory is used. H = RRᵀ with R upper (a Cholesky factor taken from the
    last row up) gives U = R⁻¹ at once: cheaper, and with fewer ways to fail, than factoring H, inverting it and
    factoring the inverse.
    """
    with full_precision(H.device):
        flip_(H)
        failed = torch.empty((), dtype=torch.int32, device=H.device)
        torch.linalg.cholesky_ex(H, out=(H, failed))
        if failed or float(H.diagonal().min()) ** 2 < LEAST_PIVOT:
            return None
        if len(H) > _DIRECT:
            invert_lower_(H)
            flip_(H)
            return H
        flip_(H)
        identity = torch.eye(len(H), dtype=H.dtype, device=H.device)
        return torch.linalg.solve_triangular(H, identity, upper=True, out=identity)


def invert_lower_(L: Tensor) -> None:
    """L⁻¹ of a lower triangular L, in place, by halves: [A 0; C B]⁻¹ = [A⁻¹ 0; −B⁻¹CA⁻¹ B⁻¹]."""
    if len(L) <= _DIRECT:
        identity = torch.eye(len(L), dtype=L.dtype, device=L.device)
        L.copy_(torch.linalg.solve_triangular(L, identity, upper=False, out=identity))
        return
    half = len(L) // 2
    A, B, C = L[:half, :half], L[half:, half:], L[half:, :half]
    invert_lower_(A)
    invert_lower_(B)
    torch.mm(B, (C @ A).neg_(), out=C)


def flip_(matrix: Tensor) -> None:
    """Rows and columns in reverse, in place, some rows at a time."""
    n = len(matrix)
    for begin in range(0, n // 2, _ROWS):
        end = min(begin + _ROWS, n // 2)
        upper, lower = matrix[begin:end], matrix[n - end : n - begin]
        turned = upper.flip(0, 1)
        upper.copy_(lower.flip(0, 1))
        lower.copy_(turned)
    if n % 2:
        middle = matrix[n // 2 : n // 2 + 1]
        middle.copy_(middle.flip(1))
