"""Losses over a large vocabulary and their gradients, each row of logits read twice and nothing else kept.

Written as torch functions they are some dozen passes over float32 copies of all logits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_AT_ONCE = 4096  # logits of a row that a program holds


def cross_entropy(
    logits: Tensor, targets: Tensor, weights: Tensor | None, ignored: int, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """Σ −weight · log softmax(logits)[target], fp32, and its gradient in the logits' dtype where it is wanted."""
    logits = logits.contiguous()
    sums, gradient = _made(logits, wanted)
    cross_entropy_kernel[(len(logits),)](
        logits,
        targets.contiguous(),
        sums if weights is None else weights.float().contiguous(),
        sums,
        logits if gradient is None else gradient,
        logits.shape[1],
        ignored,
        WEIGHED=weights is not None,
        GRADIENT=wanted,
        BLOCK=_block(logits),
        num_warps=8,
    )
    return sums.sum(), gradient


def divergence(
    student: Tensor, teacher: Tensor, weights: Tensor | None, temperature: float, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """Σ weight · KL(teacher ‖ student) of the softmax at a temperature, fp32, and its gradient in the student's
    dtype."""
    assert student.shape == teacher.shape, "of two vocabularies"
    student, teacher = student.contiguous(), teacher.contiguous()
    sums, gradient = _made(student, wanted)
    divergence_kernel[(len(student),)](
        student,
        teacher,
        sums if weights is None else weights.float().contiguous(),
        sums,
        student if gradient is None else gradient,
        student.shape[1],
        1 / temperature,
        WEIGHED=weights is not None,
        GRADIENT=wanted,
        BLOCK=_block(student),
        num_warps=8,
    )
    return sums.sum(), gradient


def _made(logits: Tensor, wanted: bool) -> tuple[Tensor, Tensor | None]:
    sums = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    return sums, torch.empty_like(logits) if wanted else None


def _block(logits: Tensor) -> int:
    return min(_AT_ONCE, triton.next_power_of_2(logits.shape[1]))


@triton.jit
def _log_of_sum(row, vocabulary, scale, BLOCK: tl.constexpr):
    """log Σ exp(scale · x) of a row, one pass: each place keeps the largest so far and the sum under it."""
    largest = tl.full((BLOCK,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for begin in range(0, vocabulary, BLOCK):
        place = begin + tl.arange(0, BLOCK)
        value = tl.load(row + place, mask=place < vocabulary, other=-float("inf")).to(tl.float32) * scale
        larger = tl.maximum(largest, value)
        under = tl.where(larger == -float("inf"), 0.0, larger)
        total = total * tl.exp(largest - under) + tl.exp(value - under)
        largest = larger
    top = tl.max(largest, 0)
    return top + tl.log(tl.sum(total * tl.exp(largest - top), 0))


@triton.jit
def cross_entropy_kernel(
    logits, targets, weights, sums, gradient, vocabulary, ignored,
    WEIGHED: tl.constexpr, GRADIENT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    number = tl.program_id(0).to(tl.int64)
    row, target = logits + number * vocabulary, tl.load(targets + number)
    log_sum = _log_of_sum(row, vocabulary, 1.0, BLOCK)
    counts = target != ignored
    weight = tl.where(counts, tl.load(weights + number) if WEIGHED else 1.0, 0.0)
    chosen = tl.load(row + tl.where(counts, target, 0)).to(tl.float32)
    tl.store(sums + number, tl.where(counts, weight * (log_sum - chosen), 0.0))
    if GRADIENT:
        for begin in range(0, vocabulary, BLOCK):
            place = begin + tl.arange(0, BLOCK)
            value = tl.load(row + place, mask=place < vocabulary, other=-float("inf")).to(tl.float32)
            slope = tl.exp(value - log_sum) - (place == target).to(tl.float32)
            slope = tl.where(counts, weight * slope, 0.0)
            tl.store(gradient + number * vocabulary + place, slope, mask=place < vocabulary)


@triton.jit
def divergence_kernel(
    student, teacher, weights, sums, gradient, vocabulary, scale,
    WEIGHED: tl.constexpr, GRADIENT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    number = tl.program_id(0).to(tl.int64)
    ours, theirs = student + number * vocabulary, teacher + number * vocabulary
    our_sum = _log_of_sum(ours, vocabulary, scale, BLOCK)
    their_sum = _log_of_sum(theirs, vocabulary, scale, BLOCK)
    weight = tl.load(weights + number) if WEIGHED else 1.0
    total = tl.zeros((BLOCK,), tl.float32)
    for begin in range(0, vocabulary, BLOCK):
        place = begin + tl.arange(0, BLOCK)
        inside = place < vocabulary
        log_q = tl.load(ours + place, mask=inside, other=0.0).to(tl.float32) * scale - our_sum
        log_p = tl.load(theirs + place, mask=inside, other=0.0).to(tl.float32) * scale - their_sum
        p = tl.where(inside, tl.exp(log_p), 0.0)
        total += tl.where(p == 0.0, 0.0, p * (log_p - log_q))
        if GRADIENT:
            tl.store(
                gradient + number * vocabulary + place, weight * scale * (tl.exp(log_q) - p), mask=inside
            )
    tl.store(sums + number, weight * tl.sum(total, 0))
