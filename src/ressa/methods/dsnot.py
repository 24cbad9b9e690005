"""DSnoT: fine-tune a mask without training (Zhang et al., 2023, arXiv 2310.08915).

Every output row has an expected reconstruction error ε = Σ_{j pruned} W_j E[x_j], what its output loses on
average. Each cycle swaps one pair of weights to bring ε nearer to 0: it regrows the pruned weight with the
largest contribution W_j E[x_j] / Var(x_j)^p of the sign of ε, and prunes the kept weight of the opposite sign
with the least |W_j|·‖x_j‖₂ (N:M: the least important weight of the regrown one's group).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ressa.calibration.statistics import Hessian, InputMoments, Statistics
from ressa.errors import UsageError
from ressa.methods import magnitude, sparsegpt, wanda
from ressa.sparsity.pattern import NM, Pattern

STARTS = ("wanda", "magnitude", "sparsegpt")


def choose_statistics(options: Mapping[str, Any]) -> type[Statistics]:
    """Input moments, or the Hessian (which knows them too) for a start from SparseGPT's scores."""
    return Hessian if options.get("start") == "sparsegpt" else InputMoments


@torch.no_grad()
def apply(
    weight: Tensor,
    statistics: Statistics | None,
    pattern: Pattern,
    *,
    name: str = "",
    seed: int = 0,
    start: str = "wanda",
    max_cycle_time: int = 50,
    update_threshold: float = 0.1,
    pow_of_var_regrowing: float = 1.0,
    same_sign: bool = False,
    skip: str | Sequence[str] = (),
) -> tuple[Tensor, Tensor]:
    """Swap weights (out, in) into and out of a starting mask; no row or N:M group gains a zero.

    statistics: `InputMoments`, or `Hessian` if start is "sparsegpt". start: the scores of the first mask.
    max_cycle_time: most swaps of a row. update_threshold: a row rests once |ε| is at most this, in units of
    the output summed over the tokens of one sample (as in the official code; the paper's E[x] is per token).
    pow_of_var_regrowing: the power p. same_sign: a row rests rather than let ε change sign (N:M always does).
    skip: parts of layer names that keep the starting mask; the official code skips "mlp" in Llama.
    `seed` changes nothing.

    The official code keeps a row's last mask even if a swap overshot; here the row goes back to the cycle
    whose |ε| was least. It goes on when a row has run out of fitting pairs and so loses zeros; here the row
    rests. It averages variances within batches; here Var is over all tokens. Its option pow_of_var_pruning
    is read nowhere and has no counterpart. For the rest, the masks are its masks.
    Raises UsageError for a start that does not exist.
    """
    if start not in STARTS:
        raise UsageError(f"DSnoT cannot start from '{start}'; choose one of: {', '.join(STARTS)}.")
    assert isinstance(statistics, InputMoments | Hessian), "DSnoT needs the moments of the layer's inputs"
    W = weight.detach().float()
    importance = _starting_scores(W, statistics, start, name)
    mask = pattern.select(importance)
    if not _skipped(name, skip):
        per_sample = statistics.mean() * (statistics.count / statistics.samples)
        contribution = W * per_sample.to(W.device)
        stability = statistics.variance().to(W.device).clamp_min(torch.finfo(torch.float32).tiny)
        regrow = torch.where(contribution == 0, 0, contribution / stability**pow_of_var_regrowing)
        if isinstance(pattern, NM):
            partners: Partners = GroupPartners(mask, importance, pattern.m)
        else:
            partners = RowPartners(mask, contribution, wanda.score(W, statistics), max_cycle_time)
        same_sign = same_sign or isinstance(pattern, NM)
        mask = _swap(mask, contribution, regrow, partners, max_cycle_time, update_threshold, same_sign)
    return mask, weight.detach().masked_fill(~mask, 0)


def expected_error(weight: Tensor, mask: Tensor, statistics: InputMoments | Hessian) -> Tensor:
    """ε per output row, fp32 (out,): what pruning takes from the output, summed over a sample's tokens."""
    per_sample = statistics.mean() * (statistics.count / statistics.samples)
    return (weight.detach().float() * per_sample.to(weight.device)).masked_fill(mask, 0).sum(1)


class RowPartners:
    """Whom to prune for a regrown weight: the row's least important kept weight that also lowers |ε|."""

    def __init__(self, mask: Tensor, contribution: Tensor, importance: Tensor, cycles: int) -> None:
        helps = torch.stack([mask & (contribution < 0), mask & (contribution > 0)])  # for ε > 0, for ε < 0
        self.queues = _Queues(importance.expand_as(helps), helps, cycles)

    def take(self, side: Tensor, regrown: Tensor) -> tuple[Tensor, Tensor]:
        return self.queues.take(side)


class GroupPartners:
    """Whom to prune for a regrown weight: the least important weight of its N:M group that is still kept."""

    def __init__(self, mask: Tensor, importance: Tensor, m: int) -> None:
        self.m = m
        self.kept = mask.clone()
        self.importance = importance

    def take(self, side: Tensor, regrown: Tensor) -> tuple[Tensor, Tensor]:
        first = regrown - regrown % self.m
        members = first.unsqueeze(1) + torch.arange(self.m, device=first.device)
        kept = self.kept.gather(1, members)
        order = self.importance.gather(1, members).masked_fill(~kept, torch.inf).argsort(dim=1, stable=True)
        chosen = members.gather(1, order[:, :1])
        exists = self.kept.gather(1, chosen)
        self.kept.scatter_(1, chosen, False)  # a row whose swap is refused rests for good, so none is lost
        return chosen.squeeze(1), exists.squeeze(1)


Partners = RowPartners | GroupPartners


class _Queues:
    """For each side (0: ε > 0, 1: ε < 0) and row, the eligible columns in ascending order of cost."""

    def __init__(self, cost: Tensor, eligible: Tensor, length: int) -> None:
        """cost, eligible: (2, rows, width). Only the first `length` of each queue can ever be taken."""
        order = cost.masked_fill(~eligible, torch.inf).argsort(dim=2, stable=True)[:, :, : max(length, 1)]
        self.columns = order
        self.eligible = eligible.gather(2, order)
        self.position = torch.zeros(order.shape[:2], dtype=torch.int64, device=cost.device)
        self.rows = torch.arange(order.shape[1], device=cost.device)

    def take(self, side: Tensor) -> tuple[Tensor, Tensor]:
        """side (rows,) → the next column of each row's queue, and whether there was one."""
        position = self.position[side, self.rows]
        within = position.clamp_max(self.columns.shape[2] - 1)
        self.position[side, self.rows] += 1
        exists = self.eligible[side, self.rows, within] & (position == within)
        return self.columns[side, self.rows, within], exists


def _swap(
    mask: Tensor,
    contribution: Tensor,
    regrow: Tensor,
    partners: Partners,
    cycles: int,
    threshold: float,
    same_sign: bool,
) -> Tensor:
    """The mask after up to `cycles` swaps a row, each row at the cycle where its |ε| was least."""
    pruned = torch.stack([~mask & (regrow > 0), ~mask & (regrow < 0)])
    candidates = _Queues(torch.stack([-regrow, regrow]), pruned, cycles)
    error = contribution.masked_fill(mask, 0).sum(1)
    first_sign = error.sign()
    active = torch.ones_like(error, dtype=torch.bool)
    least, swaps_to_take = error.abs(), torch.zeros_like(error, dtype=torch.int64)
    grown, gone = [], []
    for cycle in range(cycles):
        side = (error < 0).long()
        grow, can_grow = candidates.take(side)
        prune, can_prune = partners.take(side, grow)
        step = contribution.gather(1, torch.stack([prune, grow], 1))
        after = error + step[:, 0] - step[:, 1]
        active &= (error.abs() > threshold) & can_grow & can_prune
        if same_sign:
            active &= after.sign() == first_sign
        if not active.any():
            break
        error = torch.where(active, after, error)
        better = active & (error.abs() < least)
        least = torch.where(better, error.abs(), least)
        swaps_to_take = torch.where(better, cycle + 1, swaps_to_take)
        grown.append(grow)
        gone.append(prune)
    if not grown:
        return mask
    mask = mask.clone()
    rows, taken = (torch.arange(len(grown), device=mask.device) < swaps_to_take.unsqueeze(1)).nonzero(
        as_tuple=True
    )
    mask[rows, torch.stack(grown, 1)[rows, taken]] = True
    mask[rows, torch.stack(gone, 1)[rows, taken]] = False
    return mask


def _starting_scores(W: Tensor, statistics: Statistics, start: str, name: str) -> Tensor:
    if start == "magnitude":
        return magnitude.score(W)
    if start == "wanda":
        return wanda.score(W, statistics)
    return sparsegpt.score(W, statistics, name=name)


def _skipped(name: str, skip: str | Sequence[str]) -> bool:
    parts = [skip] if isinstance(skip, str) else skip
    return any(part in name.split(".") for part in parts)
