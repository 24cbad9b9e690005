"""The losses equal their closed forms, over the tokens they say and no others."""

import math

import pytest
import torch
from torch.nn import functional as F

from ressa.repairing import losses
from ressa.repairing.losses import (
    IGNORED,
    HiddenStateDistillation,
    LogitDistillation,
    TaskLoss,
    TopKDistillation,
    align,
)

TARGETS = torch.tensor([2, IGNORED, 0, 1])


def logits(seed: int) -> torch.Tensor:
    return torch.randn(4, 5, generator=torch.Generator().manual_seed(seed))


def test_task_loss_is_the_mean_negative_log_likelihood_of_the_supervised_tokens():
    student = logits(0)
    rows = torch.log_softmax(student, -1)
    want = -(rows[0, 2] + rows[2, 0] + rows[3, 1]) / 3
    torch.testing.assert_close(TaskLoss()(student, TARGETS), want)
    torch.testing.assert_close(TaskLoss()(student, TARGETS, count=12), want / 4)
    uniform = TaskLoss()(torch.zeros(4, 5), TARGETS)
    assert uniform.item() == pytest.approx(math.log(5))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_logit_distillation_is_the_scaled_divergence_of_teacher_from_student(temperature):
    student, teacher = logits(0), logits(1)
    p = torch.softmax(teacher / temperature, -1)
    q = torch.softmax(student / temperature, -1)
    divergence = temperature**2 * (p * (p / q).log()).sum(-1)
    tokens = LogitDistillation(temperature)
    torch.testing.assert_close(tokens(student, teacher, TARGETS), divergence[[0, 2, 3]].mean())
    torch.testing.assert_close(tokens(student, teacher, TARGETS, count=6), divergence[[0, 2, 3]].sum() / 6)
    batch = LogitDistillation(temperature, reduction="batch")
    torch.testing.assert_close(batch(student, teacher, TARGETS, count=2), divergence[[0, 2, 3]].sum() / 2)
    everywhere = LogitDistillation(temperature, positions="all")
    torch.testing.assert_close(everywhere(student, teacher, TARGETS), divergence.mean())
    assert tokens(teacher, teacher, TARGETS).abs() < 1e-6
    with pytest.raises(ValueError, match="number of samples"):
        batch(student, teacher, TARGETS)


def test_padding_changes_only_what_counts_all_positions():
    student, teacher = logits(0), logits(1)
    padded = [F.pad(x, (0, 0, 0, 3), value=1.5) for x in (student, teacher + 0)]
    padded[1][4:] = logits(2)[:3]
    targets = F.pad(TARGETS, (0, 3), value=IGNORED)
    mean = LogitDistillation()
    torch.testing.assert_close(mean(*padded, targets), mean(student, teacher, TARGETS))
    paper = LogitDistillation(reduction="batch", positions="all", scaled=False)
    assert paper(*padded, targets, count=1) > paper(student, teacher, TARGETS, count=1) + 0.1


def test_hidden_states_are_compared_relative_to_the_teacher():
    ours, theirs = [logits(0), logits(1)], [logits(2), 100 * logits(3)]
    want = 0.0
    for a, b in zip(ours, theirs, strict=True):
        want += ((a - b).square().sum(-1) / b.square().sum(-1))[[0, 2, 3]].mean() / 2
    loss = HiddenStateDistillation()
    torch.testing.assert_close(loss(ours, theirs, TARGETS), want)
    torch.testing.assert_close(loss(ours, theirs, TARGETS, count=6), want / 2)
    assert loss(theirs, theirs, TARGETS) == 0


def test_alignment_of_logits_and_labels():
    rows = torch.arange(12.0).reshape(2, 3, 2)
    labels = torch.tensor([[0, 1, 2], [3, 4, 5]])
    kept, targets = align(rows, labels, shift=True)
    assert torch.equal(targets, torch.tensor([1, 2, 4, 5]))
    assert torch.equal(kept, rows[:, :2].reshape(4, 2))
    kept, targets = align(rows, labels, shift=False)
    assert torch.equal(targets, labels.flatten())
    assert torch.equal(kept, rows.reshape(6, 2))


def test_half_precision_logits_are_summed_in_float32():
    student, teacher = logits(0).bfloat16(), logits(1).bfloat16()
    want = LogitDistillation()(student.float(), teacher.float(), TARGETS)
    got = LogitDistillation()(student, teacher, TARGETS)
    assert got.dtype is torch.float32
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "at_once", [1, 13, 40, 41]
)  # of 5 × 8 logits: a row at a time, then two, four and all
def test_sums_in_parts_and_their_gradients_are_those_of_the_whole(monkeypatch, dtype, at_once):
    made = torch.Generator().manual_seed(3)
    teacher = torch.randn(5, 8, generator=made).to(dtype)
    targets = torch.tensor([1, IGNORED, 7, 0, 3])
    known, ids = torch.log_softmax(teacher.float(), -1).topk(3)
    found = {}
    for name, limit in (("whole", 1 << 30), ("parts", at_once)):
        monkeypatch.setattr(losses, "AT_ONCE", limit)
        student = torch.randn(5, 8, generator=torch.Generator().manual_seed(4)).to(dtype).requires_grad_()
        parts = [
            TaskLoss()(student, targets, count=7),
            LogitDistillation(2.0)(student, teacher, targets.clamp_min(0), count=3),
            TopKDistillation(1.5)(student, known, ids),
        ]
        (parts[0] + 0.3 * parts[1] + 2 * parts[2]).backward()
        found[name] = [*(part.detach() for part in parts), student.grad.float()]
        with torch.no_grad():
            assert torch.allclose(TaskLoss()(student, targets, count=7), parts[0])
    for whole, part in zip(found["whole"], found["parts"], strict=True):
        assert part.dtype is torch.float32
        torch.testing.assert_close(part, whole, rtol=1e-5 if dtype is torch.float32 else 2e-2, atol=2e-3)


@pytest.mark.parametrize("at_once", [1 << 30, 13])
def test_rows_may_weigh_differently(monkeypatch, at_once):
    monkeypatch.setattr(losses, "AT_ONCE", at_once)
    teacher, targets = logits(7), torch.tensor([2, 0, 4, 1])
    weights = torch.tensor([0.5, 0.0, 2.0, 0.1])
    known, ids = torch.log_softmax(teacher, -1).topk(3)
    for loss, others in (
        (TaskLoss(), (targets,)),
        (LogitDistillation(2.0), (teacher, targets)),
        (TopKDistillation(2.0), (known, ids)),
    ):
        student = logits(8).requires_grad_()
        found = loss(student, *others, weights=weights)
        (slope,) = torch.autograd.grad(found, student)
        each = [loss(student[i : i + 1], *(x[i : i + 1] for x in others), count=1) for i in range(4)]
        expected = (torch.stack(each) * weights).sum()
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(slope, torch.autograd.grad(expected, student)[0])


def test_many_logits_are_never_copied_whole(monkeypatch):
    """What is kept for the backward is one gradient in the logits' dtype."""
    monkeypatch.setattr(losses, "AT_ONCE", 1000)
    kept = []
    student = torch.randn(100, 50).bfloat16().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        loss = LogitDistillation()(
            student, torch.randn(100, 50).bfloat16(), torch.zeros(100, dtype=torch.long)
        )
    assert max(tensor.numel() for tensor in kept if tensor.dtype is torch.float32) <= 1000
    loss.backward()
    assert student.grad.dtype is torch.bfloat16
