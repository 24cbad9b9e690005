"""SparseGPT: one-shot pruning with an optimal update of what stays (Frantar & Alistarh, arXiv 2301.00774).

Columns are visited from left to right. When weight w_j of a row goes, the weights to its right take the
Optimal Brain Surgeon step that least raises ‖WX − ŴX‖², given that everything to the left is final:
δ = −w_j / [H_F⁻¹]_jj · [H_F⁻¹]_j: with F = {j, j+1, …}. Row j of the upper Cholesky factor U of H⁻¹ holds all
that is needed of H_F⁻¹: [H_F⁻¹]_j: = U_jj · U_j:.
"""

import logging

import torch
from torch import Tensor

from ressa.calibration.precision import full_precision
from ressa.calibration.statistics import Hessian, Statistics
from ressa.errors import RunError, UsageError
from ressa.sparsity.pattern import NM, Pattern, Unstructured, nearest
from ressa.sparsity.select import keep_top, keep_top_rows

log = logging.getLogger(__name__)

_BLOCKSIZE = 128
_MOST_DAMPING = 10.0
_LEAST_PIVOT = 1e-6  # of the mean diagonal: below it fp32 cannot tell a pivot from rounding


@torch.no_grad()
def apply(
    weight: Tensor,
    statistics: Statistics | None,
    pattern: Pattern,
    *,
    name: str = "",
    seed: int = 0,
    keep_zeros: bool = False,
    percdamp: float = 0.01,
    blocksize: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Choose and remove weights of `weight` (out, in) by w²/[H⁻¹]_jj, updating those that stay; fp32 inside.

    statistics: a `Hessian` of the layer's inputs. percdamp: damping added to H, as a share of its mean
    diagonal. blocksize: columns whose unstructured mask is chosen together, each block taking its share of
    the zeros: over all rows as in the paper (scope "layer"), or within each (scope "row"); by default the
    paper's 128, but a quarter of the width where that is less, for a mask chosen all at once knows nothing of
    the updates (measured: at 64–256 inputs a quarter loses 5–30 % less than 128). N:M groups are chosen one
    by one as the sweep reaches them; the block is rounded down to a multiple of M. Weights of inputs that
    were always 0 go first, and those that stay keep their value. keep_zeros: weights that are 0 already go
    before all others, and each of them goes, though the pattern may ask for fewer; without it the update gives
    them values. `seed` changes nothing.

    Raises UsageError for options out of range, RunError if the inputs held NaN or infinity.
    """
    width = weight.shape[-1]
    if blocksize is None:
        blocksize = max(min(_BLOCKSIZE, width // 4), 1)
    if percdamp < 0 or blocksize < 1:
        raise UsageError("SparseGPT needs percdamp of at least 0 and a blocksize of at least 1.")
    pattern.check_shape(weight.shape)
    U, alive = inverse_factor(statistics, percdamp, name=name)
    U, alive = U.to(weight.device), alive.to(weight.device)
    group = pattern.m if isinstance(pattern, NM) else 1
    blocksize = max(blocksize // group, 1) * group

    # (in, out), so that the sweep's columns lie in one piece; a copy always, for the sweep writes into it
    W = weight.detach().T.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    rows = W.shape[1]
    gone = W == 0 if keep_zeros else torch.zeros(1, 1, dtype=torch.bool, device=W.device).expand_as(W)
    kept = torch.empty(width, rows, dtype=torch.bool, device=W.device)
    with full_precision(W.device):
        for begin in range(0, width, blocksize):
            end = min(begin + blocksize, width)
            if isinstance(pattern, Unstructured):
                scores = _score(W, U, alive, begin, end).masked_fill(gone[begin:end].T, -1)
                kept[begin:end] = _select_block(scores, pattern, begin, end).T & ~gone[begin:end]
            errors = torch.empty(end - begin, rows, device=W.device)
            for j in range(begin, end):
                if isinstance(pattern, NM) and j % group == 0:
                    members = gone[j : j + group]
                    scores = _score(W, U, alive, j, j + group).T.masked_fill(members, -1)
                    kept[j : j + group] = _select_group(scores, pattern.n) & ~members
                error = W[j].masked_fill(kept[j], 0) / U[j, j]
                W[j:end].addr_(U[j, j:end], error, alpha=-1)
                errors[j - begin] = error
            W[end:].addmm_(U[begin:end, end:].T, errors, alpha=-1)
    if not torch.isfinite(W).all():
        raise RunError(
            f"SparseGPT's update of {name or 'a layer'} is not finite: raise percdamp or try float32."
        )
    return kept.T.contiguous(), W.masked_fill(~kept, 0).T.to(weight.dtype).contiguous()


def score(weight: Tensor, statistics: Statistics | None, *, percdamp: float = 0.01, name: str = "") -> Tensor:
    """|w|/U_jj of the weights as they are, before any update, fp32 (out, in): ranks as w²/[H⁻¹]_jj does."""
    U, alive = inverse_factor(statistics, percdamp, name=name)
    W = weight.detach().float().T
    return _score(W, U.to(W.device), alive.to(W.device), 0, len(W))


def inverse_factor(
    statistics: Statistics | None, percdamp: float, *, name: str = ""
) -> tuple[Tensor, Tensor]:
    """U (in, in), upper triangular, UᵀU = (H/h + λI)⁻¹ with h the mean of H's diagonal; and the inputs alive.

    Scaling H by 1/h keeps fp32 in range and changes no result. An input that was always 0 gets h on the
    diagonal. λ = percdamp; while that leaves H not positive definite, λ grows tenfold, and the log says so.
    """
    assert isinstance(statistics, Hessian), "SparseGPT needs the Hessian of the layer's inputs"
    layer = name or "a layer"
    H = statistics.matrix()
    diagonal = H.diagonal()
    if not torch.isfinite(diagonal).all():
        raise RunError(
            f"The calibration inputs of {layer} hold NaN or infinity: check the checkpoint, or try float32."
        )
    alive = diagonal > 0
    if alive.any():
        H /= diagonal[alive].mean()
    diagonal[~alive] = 1
    undamped, damping = diagonal.clone(), percdamp
    while True:
        diagonal.copy_(undamped + damping)
        U = _inverse_cholesky(H)
        if U is not None:
            break
        damping = max(damping * 10, 10 * _LEAST_PIVOT)
        if damping > _MOST_DAMPING:
            raise RunError(f"The Hessian of {layer} cannot be inverted however it is damped.")
    if damping > percdamp:
        log.warning(
            "%s: H is not positive definite at percdamp %g; pruned with %g.", layer, percdamp, damping
        )
    return U, alive


def _inverse_cholesky(H: Tensor) -> Tensor | None:
    """Upper U with UᵀU = H⁻¹, or None if H is not positive definite as far as fp32 can tell.

    H = RRᵀ with R upper (a Cholesky factor taken from the last row up) gives U = R⁻¹ at once: cheaper, and
    with fewer ways to fail, than factoring H, inverting it and factoring the inverse.
    """
    with full_precision(H.device):
        lower, failed = torch.linalg.cholesky_ex(H.flip(0, 1))
        if failed or float(lower.diagonal().min()) ** 2 < _LEAST_PIVOT:
            return None
        identity = torch.eye(len(H), dtype=H.dtype, device=H.device)
        return torch.linalg.solve_triangular(lower.flip(0, 1), identity, upper=True)


def _score(W: Tensor, U: Tensor, alive: Tensor, begin: int, end: int) -> Tensor:
    """(out, end − begin) scores of columns begin:end of W (in, out); 0 where the input was always 0."""
    each = alive[begin:end] / U.diagonal()[begin:end]
    return (W[begin:end].abs() * each.unsqueeze(1)).T


def _select_group(scores: Tensor, n: int) -> Tensor:
    """`NM.select` for one group, scores (m, out) → bool (m, out), in few launches: a sweep has thousands."""
    best = scores.argsort(dim=0, descending=True, stable=True)[:n]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(0, best, True)


def _select_block(scores: Tensor, pattern: Unstructured, begin: int, end: int) -> Tensor:
    """This block's share of the mask; the shares of all blocks add up to exactly `pattern.zeros`."""
    if pattern.scope == "row":
        zeros = nearest(pattern.sparsity, end) - nearest(pattern.sparsity, begin)
        return keep_top_rows(scores, end - begin - zeros)
    rows = len(scores)
    zeros = nearest(pattern.sparsity, rows * end) - nearest(pattern.sparsity, rows * begin)
    return keep_top([scores], scores.numel() - zeros)[0]
