"""What repair minimises: one class a loss.

Every loss takes the rows of the tokens it is over, (tokens, vocabulary) or (tokens, width), and divides its
sum by `count` instead of by the number of rows when told to: a step that is spread over several batches or
processes divides each part by the size of the whole, so that the parts add up to the loss of the whole.
Sums are made in float32, of many logits some rows at a time: whole, float32 copies of a large vocabulary's logits
would take more memory than a small model's training.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ressa.data.rows import IGNORED, along

Count = int | Tensor | None
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


def summed(loss: Callable[..., Tensor], logits: Tensor, *others: Tensor) -> Tensor:
    """loss(logits, *others), a sum over the rows of all of them, in parts where the logits are many.

    logits: (rows, vocabulary), in which the sum is differentiable; others: (rows, ...), which are constants.
    """
    if logits.numel() <= AT_ONCE or len(logits) < 2:
        return loss(logits, *others)
    return _InParts.apply(loss, logits, *others)


class _InParts(torch.autograd.Function):
    """Each part's gradient is computed with its sum, so that nothing but it is kept, in the logits' own dtype."""

    @staticmethod
    def forward(ctx: Any, loss: Callable[..., Tensor], logits: Tensor, *others: Tensor) -> Tensor:
        rows = max(1, AT_ONCE // logits.shape[1])
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[1] else None
        total = logits.new_zeros((), dtype=torch.float32)
        for begin in range(0, len(logits), rows):
            part, *rest = (each[begin : begin + rows].detach() for each in (logits, *others))
            with torch.set_grad_enabled(gradient is not None):
                value = loss(part.requires_grad_(gradient is not None), *rest)
            if gradient is not None:
                gradient[begin : begin + rows] = torch.autograd.grad(value, part)[0]
            total += value.detach()
        ctx.gradient = gradient
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, ...]:
        return (None, ctx.gradient * given, *[None] * (len(ctx.needs_input_grad) - 2))


class TaskLoss:
    """Cross-entropy of the supervised tokens, mean over them."""

    def __call__(self, student: Tensor, targets: Tensor, count: Count = None) -> Tensor:
        """student: logits (tokens, vocabulary); targets: token ids (tokens,), −100 left out."""
        total = summed(_cross_entropy, student, targets)
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

    def __call__(self, student: Tensor, teacher: Tensor, targets: Tensor, count: Count = None) -> Tensor:
        """student, teacher: logits (tokens, vocabulary); targets: (tokens,), −100 where not supervised."""
        if self.reduction == "batch" and count is None:
            raise ValueError('reduction="batch" divides by the number of samples: pass it as count')
        if self.positions == "supervised":
            supervised = targets != IGNORED
            if not supervised.all():
                student, teacher = student[supervised], teacher[supervised]
        total = summed(self._divergence, student, teacher)
        return self.factor * total / (len(student) if count is None else count)

    def _divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        log_student = F.log_softmax(student.float() / self.temperature, dim=-1)
        log_teacher = F.log_softmax(teacher.float() / self.temperature, dim=-1)
        return F.kl_div(log_student, log_teacher, reduction="sum", log_target=True)


class TopKDistillation:
    """T² · KL(teacher ‖ student) where only the teacher's k most probable tokens are known.

    All other tokens count as one, so this is never above the KL over the whole vocabulary, and equal to it where
    the k tokens hold all of the teacher's probability. Mean over the tokens.
    """

    def __init__(self, temperature: float = 1.0, *, scaled: bool = True) -> None:
        self.temperature = temperature
        self.factor = temperature**2 if scaled else 1.0

    def __call__(
        self, student: Tensor, log_probabilities: Tensor, ids: Tensor, count: Count = None
    ) -> Tensor:
        """student: logits (tokens, vocabulary); the teacher's log-probabilities at T and token ids (tokens, k)."""
        total = summed(self._divergence, student, log_probabilities, ids)
        return self.factor * total / (len(student) if count is None else count)

    def _divergence(self, student: Tensor, log_probabilities: Tensor, ids: Tensor) -> Tensor:
        log_q = F.log_softmax(student.float() / self.temperature, dim=-1).gather(-1, ids)
        known = F.kl_div(log_q, log_probabilities, reduction="sum", log_target=True)
        log_p_rest, log_q_rest = _log_of_rest(log_probabilities), _log_of_rest(log_q)
        return known + F.kl_div(log_q_rest, log_p_rest, reduction="sum", log_target=True)


def _cross_entropy(student: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(student.float(), targets, ignore_index=IGNORED, reduction="sum")


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
