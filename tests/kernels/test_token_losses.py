"""Losses by kernels are those of torch, gradients too. Needs a GPU or Triton's interpreter."""

import os

import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not torch.cuda.is_available() and not INTERPRETED:
    pytest.skip("needs a GPU or Triton's interpreter", allow_module_level=True)

from ressa.kernels import token_losses, token_losses_triton  # noqa: E402
from ressa.repairing import losses  # noqa: E402

DEVICE = "cpu" if INTERPRETED else "cuda"
SHAPES = [(1, 1), (5, 8), (3, 4096), (4, 5001), (2, 9000)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def rows(shape, dtype, seed, scale=3.0):
    made = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(shape, generator=made)).to(dtype).to(DEVICE)


def close(found, expected, dtype):
    rough = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
    torch.testing.assert_close(found.double(), expected, rtol=rough, atol=rough * expected.abs().max().item())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_cross_entropy(shape, dtype):
    logits = rows(shape, dtype, 0)
    targets = torch.randint(shape[1], (shape[0],), device=DEVICE)
    targets[shape[0] // 2 :: 3] = -100
    wide = logits.double().requires_grad_()
    expected = F.cross_entropy(wide, targets, reduction="sum")
    (slope,) = torch.autograd.grad(expected, wide)
    found, gradient = token_losses_triton.cross_entropy(logits, targets, None, -100, True)
    assert found.dtype is torch.float32
    assert gradient.dtype is dtype
    torch.testing.assert_close(found.double(), expected.detach(), rtol=1e-5, atol=1e-4)
    close(gradient, slope, dtype)
    assert not gradient[targets == -100].any()
    again, none = token_losses_triton.cross_entropy(logits, targets, None, -100, False)
    assert torch.equal(again, found)
    assert none is None


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_divergence(shape, dtype, temperature):
    student, teacher = rows(shape, dtype, 1), rows(shape, dtype, 2)
    wide = student.double().requires_grad_()
    log_q = F.log_softmax(wide / temperature, -1)
    log_p = F.log_softmax(teacher.double() / temperature, -1)
    expected = F.kl_div(log_q, log_p, reduction="sum", log_target=True)
    (slope,) = torch.autograd.grad(expected, wide)
    found, gradient = token_losses_triton.divergence(student, teacher, None, temperature, True)
    torch.testing.assert_close(found.double(), expected.detach(), rtol=1e-4, atol=1e-4)
    close(gradient, slope, dtype)
    again, none = token_losses_triton.divergence(student, teacher, None, temperature, False)
    assert torch.equal(again, found)
    assert none is None
    itself, flat = token_losses_triton.divergence(student, student, None, temperature, True)
    assert itself.item() == 0
    assert not flat.any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_weigh_differently(dtype):
    student, teacher = rows((4, 300), dtype, 7), rows((4, 300), dtype, 8)
    targets, weights = torch.tensor([0, -100, 7, 299]).to(DEVICE), torch.tensor([0.5, 3, 0, 2e-4]).to(DEVICE)
    wide = student.double().requires_grad_()
    log_q, log_p = wide.log_softmax(-1), teacher.double().log_softmax(-1)
    task = (F.cross_entropy(wide, targets, reduction="none") * weights).sum()
    divergence = (F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1) * weights).sum()
    for expected, (found, gradient) in (
        (task, token_losses_triton.cross_entropy(student, targets, weights, -100, True)),
        (divergence, token_losses_triton.divergence(student, teacher, weights, 1.0, True)),
    ):
        (slope,) = torch.autograd.grad(expected, wide, retain_graph=True)
        torch.testing.assert_close(found.double(), expected.detach(), rtol=1e-4, atol=1e-5)
        close(gradient, slope, dtype)


def test_words_that_cannot_be():
    """Logits of −∞, of one model or of both, and of all words but one."""
    student, teacher = rows((3, 300), torch.float32, 3), rows((3, 300), torch.float32, 4)
    broken = teacher.clone()
    broken[0, 3] = torch.nan
    assert token_losses_triton.divergence(student, broken, None, 1.0, False)[0].isnan()
    teacher[0, 7] = student[1, 5] = teacher[1, 5] = -torch.inf
    teacher[2, 1:] = -torch.inf
    found, gradient = token_losses_triton.divergence(student, teacher, None, 1.0, True)
    wide = student.double().requires_grad_()
    p = F.softmax(teacher.double(), -1)
    terms = torch.where(p > 0, p * (p.clamp_min(1e-300).log() - F.log_softmax(wide, -1)), 0)
    torch.testing.assert_close(found.double(), terms.sum().detach(), rtol=1e-5, atol=1e-5)
    assert gradient.isfinite().all()
    assert gradient[1, 5] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_losses_take_them_where_they_can(monkeypatch, dtype):
    teacher, targets = rows((6, 50), dtype, 5), torch.tensor([1, -100, 3, 4, 0, 49], device=DEVICE)
    found = []
    for fused in (True, False):
        monkeypatch.setattr(token_losses, "fuses", lambda logits, fused=fused: fused)
        student = rows((6, 50), dtype, 6).requires_grad_()
        task = losses.TaskLoss()(student, targets, 9)
        divergence = losses.LogitDistillation(2.0)(student, teacher, targets, 9)
        weighed = losses.TaskLoss()(student, targets, weights=torch.linspace(0, 1, 6, device=DEVICE))
        (0.3 * task + 0.7 * divergence + 0.2 * weighed).backward()
        found.append((task.detach(), divergence.detach(), weighed.detach(), student.grad.float()))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-3)
