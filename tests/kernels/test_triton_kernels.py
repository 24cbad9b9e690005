"""The Triton kernels compute what the plain torch functions say: on a GPU, or in Triton's interpreter.

`test_triton_interpreter.py` runs this file in the interpreter where there is no GPU.
"""

import importlib
import os
from pathlib import Path

import pytest
import torch
from kernel_cases import SHAPES, error, exact_reduction, exact_weight, layer, pack

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("needs a GPU, or TRITON_INTERPRET=1", allow_module_level=True)
pytest.importorskip("triton")

from ressa.kernels import sparse_lora, sparse_lora_torch, sparse_lora_triton  # noqa: E402

# (weights, factors, bound on the relative error). Rounding to bf16 errs by 2⁻⁸ at most; the interpreter
# truncates instead, which errs by twice that.
DTYPES = [
    (torch.float32, torch.float32, 1e-6),
    (torch.bfloat16, torch.bfloat16, 8e-3),
    (torch.bfloat16, torch.float32, 8e-3),
    (torch.float16, torch.float16, 1e-3),
]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("dtype", "factors", "bound"), DTYPES, ids=str)
def test_effective_weight_is_the_masked_sum(shape, dtype, factors, bound):
    case = layer(shape, dtype, factors, device=DEVICE)
    arguments = (case.weight, case.packed, case.lora_a.detach(), case.lora_b.detach(), case.scaling)
    found = sparse_lora_triton.effective_weight(*arguments, torch.full_like(case.weight, torch.nan))
    plain = sparse_lora_torch.effective_weight(*arguments, torch.full_like(case.weight, torch.nan))
    assert error(found, exact_weight(case)) < bound
    assert error(plain, exact_weight(case)) < bound
    assert torch.equal(found == 0, plain == 0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("dtype", "factors", "bound"), DTYPES, ids=str)
def test_reduction_is_the_two_masked_products(shape, dtype, factors, bound):
    case = layer(shape, dtype, factors, device=DEVICE)
    gradient = torch.randn_like(case.weight)
    before = gradient.clone()
    arguments = (case.packed, case.lora_a.detach(), case.lora_b.detach(), case.scaling)
    found = sparse_lora_triton.masked_reduction(gradient, *arguments)
    assert torch.equal(gradient, before)
    plain = sparse_lora_torch.masked_reduction(gradient.clone(), *arguments)
    for one, other, exact in zip(found, plain, exact_reduction(case, gradient), strict=True):
        assert one.dtype == other.dtype == factors
        assert error(one, exact) < bound
        assert error(other, exact) < bound


@pytest.mark.parametrize("shape", [*SHAPES, (70, 140, 0), (70, 140, 64)], ids=str)
@pytest.mark.parametrize(("dtype", "factors", "bound"), DTYPES, ids=str)
def test_the_weight_may_take_the_gradients_place(shape, dtype, factors, bound):
    case = layer(shape, dtype, factors, device=DEVICE)
    arguments = (case.packed, case.lora_a.detach(), case.lora_b.detach(), case.scaling)
    before = torch.randn_like(case.weight)
    for kernels in (sparse_lora_triton, sparse_lora_torch):
        gradient = before.clone()
        found = kernels.masked_reduction(gradient, *arguments, case.weight)
        weight = kernels.effective_weight(case.weight, *arguments, torch.full_like(before, torch.nan))
        assert torch.equal(gradient, weight)
        for one, other in zip(found, kernels.masked_reduction(before.clone(), *arguments), strict=True):
            assert torch.equal(one, other)


def test_no_factors_at_all():
    case = layer((37, 19, 0), torch.bfloat16, device=DEVICE)
    out = torch.full_like(case.weight, torch.nan)
    sparse_lora_triton.effective_weight(
        case.weight, case.packed, case.lora_a.detach(), case.lora_b.detach(), 1.0, out
    )
    assert torch.equal(out, case.weight * case.mask)


def test_tiles_and_parts_of_every_size_cover_everything():
    case = layer((75, 140, 5), device=DEVICE)
    arguments = (case.lora_a.detach(), case.lora_b.detach(), case.scaling)
    gradient = torch.randn_like(case.weight)
    for rows, columns, programs in ((64, 32, 1), (64, 64, 9), (128, 128, 20)):
        weight = sparse_lora_triton.effective_weight(
            case.weight,
            case.packed,
            *arguments,
            torch.full_like(case.weight, torch.nan),
            block_rows=rows,
            block_columns=columns,
        )
        assert error(weight, exact_weight(case)) < 1e-6
        replaced = gradient.clone()
        found = sparse_lora_triton.masked_reduction(
            replaced,
            case.packed,
            *arguments,
            block_rows=rows,
            block_columns=columns,
            programs=programs,
            weight=case.weight,
            weight_block=(rows, columns),
        )
        assert torch.equal(replaced, weight)
        for one, exact in zip(found, exact_reduction(case, gradient), strict=True):
            assert error(one, exact) < 1e-6


@pytest.mark.parametrize("rank", [0, 1, 4, 8, 16, 17, 64])
@pytest.mark.parametrize("factors", [torch.bfloat16, torch.float32], ids=str)
def test_any_rank(rank, factors):
    case = layer((70, 140, rank), torch.bfloat16, factors, device=DEVICE)
    arguments = (case.packed, case.lora_a.detach(), case.lora_b.detach(), case.scaling)
    weight = sparse_lora_triton.effective_weight(
        case.weight, *arguments, torch.full_like(case.weight, torch.nan)
    )
    assert error(weight, exact_weight(case)) < 8e-3
    gradient = torch.randn_like(case.weight)
    found = sparse_lora_triton.masked_reduction(gradient, *arguments, programs=9)
    # In fp32 the gradients of fp32 factors show what the products lose: 8 bits in bf16, 16 in two halves.
    bound = 1e-4 if factors == torch.float32 else 8e-3
    for one, exact in zip(found, exact_reduction(case, gradient), strict=True):
        assert one.shape == exact.shape
        assert rank == 0 or error(one, exact) < bound


def test_what_the_mask_drops_is_zero_whatever_it_was():
    case = layer((24, 40, 4), device=DEVICE)
    case.weight[~case.mask] = torch.nan
    out = torch.full_like(case.weight, torch.nan)
    sparse_lora_triton.effective_weight(
        case.weight, case.packed, case.lora_a.detach(), case.lora_b.detach(), case.scaling, out
    )
    assert torch.equal(out == 0, ~case.mask)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_masked_alone(shape, given, dtype):
    case = layer(shape, given, device=DEVICE)
    for weight in (case.weight, case.weight.t().contiguous().t()):
        found = sparse_lora_triton.masked(weight, case.packed, dtype)
        plain = sparse_lora_torch.masked(weight, case.packed, dtype)
        assert found.dtype == plain.dtype == dtype
        assert found.is_contiguous()
        assert plain.is_contiguous()
        assert torch.equal(plain, torch.where(case.mask, weight, 0).to(dtype))
        if INTERPRETED and dtype == torch.bfloat16:  # it truncates
            assert error(found, plain.double()) < 8e-3
        else:
            assert torch.equal(found, plain)


def test_same_bits_every_time():
    case = layer((130, 300, 20), torch.bfloat16, device=DEVICE)
    gradient = torch.randn_like(case.weight)
    arguments = (case.packed, case.lora_a.detach(), case.lora_b.detach(), case.scaling)
    first = sparse_lora_triton.masked_reduction(gradient, *arguments)
    for one, other in zip(first, sparse_lora_triton.masked_reduction(gradient, *arguments), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_layer_on_the_kernels_has_the_gradients_of_the_formula(monkeypatch, dtype):
    monkeypatch.setattr(sparse_lora, "_implementation", lambda tensor: sparse_lora_triton)
    case = layer((75, 44, 6), dtype, tokens=30, device=DEVICE)
    x = case.x.requires_grad_()
    y = sparse_lora.sparse_lora_linear(
        x, case.weight, case.packed, case.lora_a, case.lora_b, case.scaling, case.bias
    )
    found = torch.autograd.grad(y, (x, case.lora_a, case.lora_b), case.grad_out)
    weight, gradient = exact_weight(case), case.grad_out.double().t() @ x.detach().double()
    bound = 1e-2 if dtype == torch.bfloat16 else 1e-5
    assert error(y, x.detach().double() @ weight.t() + case.bias.detach().double()) < bound
    for one, exact in zip(
        found, (case.grad_out.double() @ weight, *exact_reduction(case, gradient)), strict=True
    ):
        assert error(one, exact) < bound


def test_tensors_may_start_anywhere():
    case = layer((64, 64, 8), torch.bfloat16, device=DEVICE)
    arguments = (case.packed, case.lora_a.detach(), case.lora_b.detach(), case.scaling)
    shifted = torch.zeros(case.weight.numel() + 1, dtype=case.weight.dtype, device=DEVICE)[1:]
    shifted = shifted.view_as(case.weight).copy_(case.weight)
    for weight in (case.weight, case.weight, shifted, case.weight):  # launched as before only where it may be
        out = torch.full_like(case.weight, torch.nan)
        sparse_lora_triton.effective_weight(weight, *arguments, out)
        assert error(out, exact_weight(case)) < 8e-3
        for one, exact in zip(
            sparse_lora_triton.masked_reduction(weight, *arguments),
            exact_reduction(case, weight),
            strict=True,
        ):
            assert error(one, exact) < 8e-3


@pytest.mark.parametrize("shape", [(64, 64, 8), (37, 40, 3), (70, 300, 17)], ids=str)
def test_kept_values_of_a_two_in_four_mask_row_by_row(monkeypatch, shape):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    compressed = importlib.import_module("compressed")
    case = layer(shape, torch.bfloat16, device=DEVICE)
    groups = torch.rand(shape[0], shape[1] // 4, 4).argsort(-1) < 2
    case.mask, case.packed = groups.view(shape[:2]).to(DEVICE), pack(groups.view(shape[:2])).to(DEVICE)
    arguments = (case.weight, case.packed, case.lora_a.detach(), case.lora_b.detach(), case.scaling)
    out = torch.full((case.weight.numel() // 2,), torch.nan, dtype=torch.bfloat16, device=DEVICE)
    whole = sparse_lora_triton.effective_weight(*arguments, torch.empty_like(case.weight))
    assert torch.equal(compressed.kept_values(*arguments, out), whole[case.mask])


on_gpu = pytest.mark.skipif(INTERPRETED, reason="about the GPU itself")


@on_gpu
def test_compiled_under_autocast_it_has_the_same_gradients():
    case = layer((64, 40, 4), torch.float32, device=DEVICE)
    x = case.x.requires_grad_()

    def run(function):
        with torch.autocast("cuda", torch.bfloat16):
            y = function(x, case.weight, case.packed, case.lora_a, case.lora_b, case.scaling)
        return torch.autograd.grad(y, (x, case.lora_a, case.lora_b), case.grad_out.bfloat16())

    eager = run(sparse_lora.sparse_lora_linear)
    compiled = run(torch.compile(sparse_lora.sparse_lora_linear, fullgraph=True))
    for one, other in zip(compiled, eager, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other)


@on_gpu
def test_a_step_needs_one_buffer_more_than_a_frozen_layer():
    case = layer((4096, 4096, 8), torch.bfloat16, tokens=512, device=DEVICE)
    x = case.x.requires_grad_()

    def peak(step) -> int:
        step()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before

    def frozen():
        return torch.autograd.grad(torch.nn.functional.linear(x, case.weight), x, case.grad_out)

    def ours():
        y = sparse_lora.sparse_lora_linear(x, case.weight, case.packed, case.lora_a, case.lora_b, 2.0)
        return torch.autograd.grad(y, (x, case.lora_a, case.lora_b), case.grad_out)

    buffer = case.weight.numel() * case.weight.element_size()
    assert peak(ours) - peak(frozen) <= 1.1 * buffer
