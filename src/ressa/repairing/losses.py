"""What repair minimises: one class a loss.

Every loss takes the rows of the tokens it is over, (tokens, vocabulary) or (tokens, width), and divides its
sum by `count` instead of by the number of rows when told to: a step that is spread over several batches or
processes divides each part by the size of the whole, so that the parts add up to the loss of the whole. Or it
weighs each row by `weights` (tokens,), fp32, where rows of several kinds have a mean each.
Sums are made in float32, of many logits some rows at a time: whole, float32 copies of a large vocabulary's logits
would take more memory than a small model's training.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ressa.data.rows import IGNORED, along
from ressa.kernels import token_losses

Count = int | Tensor | None
Fused = Callable[..., tuple[Tensor, Tensor | None]]
"""Logits, weights, the constants of a sum, and whether its gradient is wanted → the sum, and the gradient."""
AT_ONCE = 1 << 25  # logits, of which float32 copies are made


def align(logits: Tensor, labels: Tensor, *, shift: bool) -> tuple[Tensor, Tensor]:
    """Logits (batch, length, ...) beside the labels (batch, length) they predict, one position a row.

    shift: the logits at t predict the label at t + 1 (decoder-only), not the one at t (encoder-decoder).
    Returns (positions, ...) and (positions,). Raises UsageError where the logits do not run along the labels (`along`).
    """
    logits = along(logits, labels)
    if shift:
        logits, labels = logits[:, :-1], labels[:, 1:]
    return logits.flatten(0, 1), labels.flatten()


def summed(
    loss: Callable[..., Tensor],
    logits: Tensor,
    *others: Tensor,
    weights: Tensor | None = None,
    fused: Fused | None = None,
) -> Tensor:
    """Σ weights · loss(logits, *others), a sum over the rows of all of them, in parts where the logits are many.

    logits: (rows, vocabulary), in which the sum is differentiable, once; others: (rows, ...), which are constants.
    loss: with reduction="none" gives (rows,), with "sum" their sum. weights: (rows,), all 1 when None. fused: the sum
    by a kernel, with its gradient, where that can run.
    """
    if fused is not None and token_losses.fuses(logits):
        return _WithGradient.apply(fused, logits, weights, *others)
    if logits.numel() <= AT_ONCE or len(logits) < 2:
        return _weighed(loss, logits, weights, *others)
    return _WithGradient.apply(partial(_in_parts, loss), logits, weights, *others)


class _WithGradient(torch.autograd.Function):
    """The gradient is made with the sum, so that nothing but it is kept, in the logits' own dtype."""

    @staticmethod
    def forward(ctx: Any, both: Fused, logits: Tensor, weights: Tensor | None, *others: Tensor) -> Tensor:
        total, ctx.gradient = both(logits, weights, *others, ctx.needs_input_grad[1])
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, ...]:
        gradient, ctx.gradient = ctx.gradient, None
        return (None, gradient.mul_(given), *[None] * (len(ctx.needs_input_grad) - 2))


def _in_parts(
    loss: Callable[..., Tensor], logits: Tensor, weights: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor | None]:
    """A loss's sum, and its gradient where the last argument wants it, some rows at a time."""
    *others, wanted = rest
    rows = max(1, AT_ONCE // logits.shape[1])
    gradient = torch.empty_like(logits) if wanted else None
    total = logits.new_zeros((), dtype=torch.float32)
    for begin in range(0, len(logits), rows):
        chosen = slice(begin, begin + rows)
        part, *beside = (each[chosen].detach() for each in (logits, *others))
        with torch.set_grad_enabled(wanted):
            weighed = None if weights is None else weights[chosen]
            value = _weighed(loss, part.requires_grad_(wanted), weighed, *beside)
        if gradient is not None:
            gradient[chosen] = torch.autograd.grad(value, part)[0]
        total += value.detach()
    return total, gradient


def _weighed(loss: Callable[..., Tensor], logits: Tensor, weights: Tensor | None, *others: Tensor) -> Tensor:
    if weights is None:
        return loss(logits, *others, reduction="sum")
    return (loss(logits, *others, reduction="none") * weights).sum()


class TaskLoss:
    """Cross-entropy of the supervised tokens, mean over them."""

    def __call__(
        self, student: Tensor, targets: Tensor, count: Count = None, *, weights: Tensor | None = None
    ) -> Tensor:
        """student: logits (tokens, vocabulary); targets: token ids (tokens,), −100 left out."""
        total = summed(_cross_entropy, student, targets, weights=weights, fused=_fused_cross_entropy)
        if weights is not None:
            return total
        return total / ((targets != IGNORED).sum() if count is None else count)


class LogitDistillation:
    """T² · KL(teacher ‖ student) of the softmax at temperature T over the whole vocabulary.

    T² keeps the size of the gradient when T changes (Hinton et al., arXiv 1503.02531, §2).

    positions: "supervised" ones, or "all" rows, whatever their target. reduction "tokens": mean over these positions;
    "batch": their sum divided by the number of samples; `count` is then that number. scaled: whether T² is there.
    RESSA's code has all positions (image, prompt, padding and the last one, which predicts nothing), "batch" and no T².
    """

    def __init__(
        self,
        temperature: float = 1.0,
        reduction: Literal["tokens", "batch"] = "tokens",
        *,
        positions: Literal["supervised", "all"] = "supervised",
        scaled: bool = True,
    ) -> None:
        self.temperature = temperature
        self.reduction = reduction
        self.positions = positions
        self.factor = temperature**2 if scaled else 1.0

    def __call__(
        self,
        student: Tensor,
        teacher: Tensor,
        targets: Tensor,
        count: Count = None,
        *,
        weights: Tensor | None = None,
    ) -> Tensor:
        """student, teacher: logits (tokens, vocabulary); targets: (tokens,), −100 where not supervised. With weights
        (tokens,) every row is."""
        if weights is not None:
            return self.factor * self._total(student, teacher, weights)
        if self.reduction == "batch" and count is None:
            raise ValueError('reduction="batch" divides by the number of samples: pass it as count')
        if self.positions == "supervised":
            supervised = targets != IGNORED
            if not supervised.all():
                student, teacher = student[supervised], teacher[supervised]
        total = self._total(student, teacher)
        return self.factor * total / (len(student) if count is None else count)

    def _total(self, student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
        return summed(self._divergence, student, teacher, weights=weights, fused=self._fused)

    def _fused(
        self, student: Tensor, weights: Tensor | None, teacher: Tensor, wanted: bool
    ) -> tuple[Tensor, Tensor | None]:
        return token_losses.fused().divergence(student, teacher, weights, self.temperature, wanted)

    def _divergence(self, student: Tensor, teacher: Tensor, reduction: str) -> Tensor:
        log_student = F.log_softmax(student.float() / self.temperature, dim=-1)
        log_teacher = F.log_softmax(teacher.float() / self.temperature, dim=-1)
        return _divergences(log_student, log_teacher, reduction)


class TopKDistillation:
    """T² · KL(teacher ‖ student) where only the teacher's k most probable tokens are known.

    All other tokens count as one, so this is never above the KL over the whole vocabulary, and equal to it where
    the k tokens hold all of the teacher's probability. Mean over the tokens.
    """

    def __init__(self, temperature: float = 1.0, *, scaled: bool = True) -> None:
        self.temperature = temperature
        self.factor = temperature**2 if scaled else 1.0

    def __call__(
        self,
        student: Tensor,
        log_probabilities: Tensor,
        ids: Tensor,
        count: Count = None,
        *,
        weights: Tensor | None = None,
    ) -> Tensor:
        """student: logits (tokens, vocabulary); the teacher's log-probabilities at T and token ids (tokens, k)."""
        total = summed(self._divergence, student, log_probabilities, ids, weights=weights)
        if weights is not None:
            return self.factor * total
        return self.factor * total / (len(student) if count is None else count)

    def _divergence(self, student: Tensor, log_probabilities: Tensor, ids: Tensor, reduction: str) -> Tensor:
        log_q = F.log_softmax(student.float() / self.temperature, dim=-1).gather(-1, ids)
        known = _divergences(log_q, log_probabilities, reduction)
        log_p_rest, log_q_rest = _log_of_rest(log_probabilities), _log_of_rest(log_q)
        return known + F.kl_div(log_q_rest, log_p_rest, reduction=reduction, log_target=True)


def _cross_entropy(student: Tensor, targets: Tensor, reduction: str) -> Tensor:
    return F.cross_entropy(student.float(), targets, ignore_index=IGNORED, reduction=reduction)


def _divergences(log_q: Tensor, log_p: Tensor, reduction: str) -> Tensor:
    """Σ p (log p − log q) of each row, or of all."""
    found = F.kl_div(log_q, log_p, reduction=reduction, log_target=True)
    return found.sum(-1) if reduction == "none" else found


def _fused_cross_entropy(
    student: Tensor, weights: Tensor | None, targets: Tensor, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    return token_losses.fused().cross_entropy(student, targets, weights, IGNORED, wanted)


def _log_of_rest(log_probabilities: Tensor) -> Tensor:
    """log(1 − Σ p) over the last dimension, bounded below where nothing is left."""
    return torch.log1p(-log_probabilities.exp().sum(-1).clamp_max(1 - 1e-6))


class HiddenStateDistillation:
    """‖h_student − h_teacher‖² / ‖h_teacher‖², mean over the supervised tokens and over the blocks.

    Dividing by the teacher's norm makes blocks of different scale count alike.
    """

    def __call__(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], targets: Tensor, count: Count = None
    ) -> Tensor:
        """student, teacher: for each block its outputs (tokens, width); targets: (tokens,), −100 left out."""
        supervised = targets != IGNORED
        total = torch.zeros((), device=targets.device)
        for ours, theirs in zip(student, teacher, strict=True):
            theirs = theirs[supervised].float()
            error = (ours[supervised].float() - theirs).square().sum(-1)
            total = total + (error / theirs.square().sum(-1).clamp_min(1e-12)).sum()
        return total / (len(student) * (supervised.sum() if count is None else count))
