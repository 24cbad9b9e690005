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
from ressa.kernels.column_sweep import sweep
from ressa.methods.inverse_cholesky import LEAST_PIVOT, inverse_cholesky_
from ressa.sparsity.pattern import NM, Pattern, Unstructured, nearest
from ressa.sparsity.select import keep_top, keep_top_rows

log = logging.getLogger(__name__)

_BLOCKSIZE = 128
_MOST_DAMPING = 10.0


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
    # What may stay, until a block's turn says what does.
    kept = W != 0 if keep_zeros else torch.ones_like(W, dtype=torch.bool)
    scale = alive / U.diagonal()
    n, m = (pattern.n, pattern.m) if isinstance(pattern, NM) else (0, 1)
    with full_precision(W.device):
        for begin in range(0, width, blocksize):
            here = slice(begin, min(begin + blocksize, width))
            if isinstance(pattern, Unstructured):
                scores = (W[here].abs() * scale[here].unsqueeze(1)).masked_fill(~kept[here], -1).T
                kept[here] &= _select_block(scores, pattern, here.start, here.stop).T
            errors = torch.empty_like(W[here])
            sweep(W[here], U[here, here], scale[here], kept[here], errors, n=n, m=m)
            # fp32 all through: as it reads and writes the rest of W once a block, it is bound by memory
            W[here.stop :].addmm_(U[here, here.stop :].T, errors, alpha=-1)
    if not torch.isfinite(W.sum()):  # a sum of numbers that are no numbers is none
        raise RunError(
            f"SparseGPT's update of {name or 'a layer'} is not finite: raise percdamp or try float32."
        )
    W.masked_fill_(~kept, 0)
    pruned = torch.empty_like(weight, memory_format=torch.contiguous_format).copy_(W.T)
    del W
    return kept.T.contiguous(), pruned


def score(weight: Tensor, statistics: Statistics | None, *, percdamp: float = 0.01, name: str = "") -> Tensor:
    """|w|/U_jj of the weights as they are, before any update, fp32 (out, in): ranks as w²/[H⁻¹]_jj does."""
    U, alive = inverse_factor(statistics, percdamp, name=name)
    return weight.detach().float().abs() * (alive / U.diagonal()).to(weight.device)


def inverse_factor(
    statistics: Statistics | None, percdamp: float, *, name: str = ""
) -> tuple[Tensor, Tensor]:
    """U (in, in), upper triangular, UᵀU = (H/h + λI)⁻¹ with h the mean of H's diagonal; and the inputs alive.

    Scaling H by 1/h keeps fp32 in range and changes no result. An input that was always 0 gets h on the
    diagonal. λ = percdamp; while that leaves H not positive definite, λ grows tenfold, and the log says so.
    Made once for all linears that share the statistics.
    """
    assert isinstance(statistics, Hessian), "SparseGPT needs the Hessian of the layer's inputs"
    return statistics.once(percdamp, lambda: _inverse_factor(statistics, percdamp, name or "a layer"))


def _inverse_factor(statistics: Hessian, percdamp: float, layer: str) -> tuple[Tensor, Tensor]:
    damping = percdamp
    while True:
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
        diagonal += damping
        U = inverse_cholesky_(H)
        if U is not None:
            break
        damping = max(damping * 10, 10 * LEAST_PIVOT)
        if damping > _MOST_DAMPING:
            raise RunError(f"The Hessian of {layer} cannot be inverted however it is damped.")
    if damping > percdamp:
        log.warning(
            "%s: H is not positive definite at percdamp %g; pruned with %g.", layer, percdamp, damping
        )
    return U, alive


def _select_block(scores: Tensor, pattern: Unstructured, begin: int, end: int) -> Tensor:
    """This block's share of the mask; the shares of all blocks add up to exactly `pattern.zeros`."""
    if pattern.scope == "row":
        zeros = nearest(pattern.sparsity, end) - nearest(pattern.sparsity, begin)
        return keep_top_rows(scores, end - begin - zeros)
    rows = len(scores)
    zeros = nearest(pattern.sparsity, rows * end) - nearest(pattern.sparsity, rows * begin)
    return keep_top([scores], scores.numel() - zeros)[0]
