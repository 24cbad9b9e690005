"""SparseLoRA's linear layer: right values and gradients, and nothing kept that need not be."""

import pytest
import torch
from kernel_cases import SHAPES, Layer, error, exact_reduction, exact_weight, layer
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

from ressa.errors import UsageError
from ressa.kernels import (
    effective_weight,
    masked_gradients,
    masked_linear,
    masked_reduction,
    sparse_lora_linear,
)

DTYPES = [(torch.float64, 1e-13), (torch.float32, 1e-5), (torch.bfloat16, 1e-2)]


def forward(case: Layer, x: torch.Tensor, bias: bool = True) -> torch.Tensor:
    return sparse_lora_linear(
        x,
        case.weight,
        case.packed,
        case.lora_a,
        case.lora_b,
        case.scaling,
        case.bias if bias else None,
    )


def naive(case: Layer, x: torch.Tensor) -> torch.Tensor:
    """The formula as written, differentiated by autograd."""
    weight = case.weight * case.mask + case.scaling * (case.lora_b @ case.lora_a) * case.mask
    return torch.nn.functional.linear(x, weight, case.bias)


def gradients(case: Layer, y: torch.Tensor, x: torch.Tensor, grad_out: torch.Tensor) -> tuple:
    return torch.autograd.grad(y, (x, case.lora_a, case.lora_b, case.bias), grad_out)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("dtype", "bound"), DTYPES, ids=str)
def test_output_and_gradients_are_those_of_the_formula(shape, dtype, bound):
    case = layer(shape, dtype)
    x = case.x.requires_grad_()
    y = forward(case, x)
    found = gradients(case, y, x, case.grad_out)
    weight = exact_weight(case)
    gradient = case.grad_out.double().t() @ x.detach().double()
    exact = (
        case.grad_out.double() @ weight,
        *exact_reduction(case, gradient),
        case.grad_out.double().sum(0),
    )
    assert error(y, x.detach().double() @ weight.t() + case.bias.detach().double()) < bound
    for one, other in zip(found, exact, strict=True):
        assert one.dtype == dtype
        assert error(one, other) < bound


def test_gradcheck():
    case = layer((5, 11, 3), torch.float64, tokens=4)
    x = case.x.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, a, b, bias: sparse_lora_linear(x, case.weight, case.packed, a, b, 2.0, bias),
        (x, case.lora_a, case.lora_b, case.bias),
    )


def test_fp32_factors_beside_bf16_weights_get_fp32_gradients():
    case = layer((37, 19, 3), torch.bfloat16, torch.float32)
    y = forward(case, case.x)
    assert y.dtype == torch.bfloat16
    y.backward(case.grad_out)
    gradient = case.grad_out.double().t() @ case.x.double()
    for one, exact in zip((case.lora_a, case.lora_b), exact_reduction(case, gradient), strict=True):
        assert one.grad.dtype == torch.float32
        assert error(one.grad, exact) < 1e-2


def test_the_effective_weight_is_zero_where_the_mask_is_whatever_was_there():
    case = layer((24, 43, 4))
    case.weight[~case.mask] = torch.inf
    weight = effective_weight(case.weight, case.packed, case.lora_a, case.lora_b, case.scaling)
    assert torch.equal(weight == 0, ~case.mask)
    assert not weight.signbit()[~case.mask].any()


def test_gradients_with_and_without_a_given_buffer_are_the_same():
    case = layer((24, 43, 4))
    arguments = (case.grad_out, case.x, case.packed, case.lora_a, case.lora_b, case.scaling)
    buffer = torch.full_like(case.weight, torch.nan)
    for one, other in zip(
        masked_gradients(*arguments), masked_gradients(*arguments, buffer=buffer), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "reshape",
    [
        lambda x: x.view(3, 4, -1),
        lambda x: x.t().contiguous().t(),
        lambda x: torch.stack([x, x], -1)[..., 0],
        lambda x: x[:0],
        lambda x: x[0],
    ],
    ids=["three dimensions", "transposed", "strided", "empty", "one token"],
)
def test_inputs_of_any_layout(reshape):
    case = layer((37, 19, 3))
    x = reshape(case.x).detach().requires_grad_()
    grad_out = torch.ones(()).expand(*x.shape[:-1], 37)
    found = gradients(case, forward(case, x), x, grad_out)
    expected = gradients(case, naive(case, x), x, grad_out)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("trainable", ["x", "lora_a", "lora_b", "bias"])
def test_each_gradient_alone(trainable):
    case = layer((37, 19, 3))
    expected = dict(
        zip(
            ("x", "lora_a", "lora_b", "bias"),
            gradients(case, naive(case, case.x.requires_grad_()), case.x, case.grad_out),
            strict=True,
        )
    )
    for name in expected:
        getattr(case, name).requires_grad_(name == trainable)
    forward(case, case.x).backward(case.grad_out)
    for name, value in expected.items():
        found = getattr(case, name).grad
        if name == trainable:
            torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-4)
        else:
            assert found is None


@pytest.mark.parametrize("shape", [(3, 2, 8), (6, 8)], ids=str)
def test_what_it_gives_may_be_written_into(shape):
    """As GroupViT does with `+=`."""
    case = layer((8, 8, 2), torch.float64, tokens=6)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    found, known = forward(case, x), naive(case, x)
    found += x
    known = known + x
    assert error(found, known) < 1e-13
    for one, other in zip(
        gradients(case, found.sum(), x, None), gradients(case, known.sum(), x, None), strict=True
    ):
        assert error(one, other) < 1e-13


def test_one_layer_used_twice_adds_its_gradients():
    case = layer((19, 19, 3))
    forward(case, forward(case, case.x)).sum().backward()
    found = case.lora_a.grad.clone(), case.lora_b.grad.clone()
    expected = torch.autograd.grad(naive(case, naive(case, case.x)).sum(), (case.lora_a, case.lora_b))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


def saved_by(run) -> list[torch.Tensor]:
    """The tensors that autograd keeps between the forward and the backward of `run`."""
    kept: list[torch.Tensor] = []

    def keep(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return kept


def storages(tensors) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_the_input_and_what_exists_anyway_is_kept_for_the_backward(dtype):
    case = layer((64, 40, 4), dtype)
    existing = storages([case.x, case.weight, case.packed, case.lora_a, case.lora_b])
    kept = saved_by(lambda: forward(case, case.x.requires_grad_()))
    assert kept
    assert storages(kept) <= existing
    # The same of the formula as written keeps products as large as the weight.
    other = saved_by(lambda: naive(case, case.x))
    assert not storages(other) <= existing | storages([case.mask])


def test_same_bits_every_time():
    case = layer((130, 300, 20), torch.bfloat16)
    x = case.x.requires_grad_()
    first = gradients(case, forward(case, x), x, case.grad_out)
    second = gradients(case, forward(case, x), x, case.grad_out)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_without_factors_it_is_the_masked_linear():
    case = layer((37, 19, 3))
    x = case.x.requires_grad_()
    y = masked_linear(x, case.weight, case.packed, case.bias)
    expected = torch.nn.functional.linear(x, case.weight * case.mask, case.bias)
    torch.testing.assert_close(y, expected)
    for tensor in (x, case.bias):
        found, other = (
            torch.autograd.grad(z, tensor, case.grad_out, retain_graph=True)[0] for z in (y, expected)
        )
        torch.testing.assert_close(found, other)
    assert storages(saved_by(lambda: masked_linear(x, case.weight, case.packed))) <= storages(
        [case.x, case.weight, case.packed, torch.empty(0)]
    )


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(reentrant):
    case = layer((37, 19, 3))
    x = case.x.requires_grad_()
    y = checkpoint(forward, case, x, use_reentrant=reentrant)
    y.backward(case.grad_out)
    expected = gradients(case, forward(case, x), x, case.grad_out)
    for tensor, other in zip((x, case.lora_a, case.lora_b, case.bias), expected, strict=True):
        assert torch.equal(tensor.grad, other)


@pytest.mark.parametrize("backward_inside", [True, False])
def test_autocast(backward_inside):
    case = layer((64, 40, 4))
    x = case.x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = forward(case, x)
        if backward_inside:
            y.backward(case.grad_out.bfloat16())
    assert y.dtype == torch.bfloat16
    if not backward_inside:
        y.backward(case.grad_out.bfloat16())
    expected = gradients(case, naive(case, x), x, case.grad_out)
    for tensor, exact in zip((x, case.lora_a, case.lora_b, case.bias), expected, strict=True):
        assert tensor.grad.dtype == torch.float32
        assert error(tensor.grad, exact.double()) < 1e-2


def test_autocast_does_not_round_the_sums():
    case = layer((64, 40, 4))
    factors = (case.packed, case.lora_a, case.lora_b, case.scaling)
    expected = effective_weight(case.weight, *factors), masked_reduction(case.weight.clone(), *factors)
    with torch.autocast("cpu", torch.bfloat16):
        found = effective_weight(case.weight, *factors), masked_reduction(case.weight.clone(), *factors)
    assert torch.equal(found[0], expected[0])
    assert all(map(torch.equal, found[1], expected[1]))


@pytest.mark.parametrize("backend", ["aot_eager_decomp_partition", "inductor"])
def test_compiled_it_is_one_graph_with_the_same_values_and_keeps_no_more(backend):
    case = layer((64, 40, 4))
    x = case.x.requires_grad_()

    def model(x):
        return torch.nn.functional.silu(forward(case, x)) * 2

    expected = gradients(case, model(x), x, case.grad_out)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    found = gradients(case, compiled(x), x, case.grad_out)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    kept = saved_by(lambda: compiled(x))
    large = [tensor for tensor in kept if tensor.numel() >= case.weight.numel()]
    assert storages(large) <= storages([case.weight])
    torch.compiler.reset()


def test_the_operators_are_registered_properly():
    case = layer((16, 24, 4))
    arguments = (case.weight, case.packed, case.lora_a.detach(), case.lora_b.detach(), case.scaling)
    checks = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    operators = torch.ops.ressa
    torch.library.opcheck(
        operators.sparse_lora_forward, (case.x, *arguments, case.bias.detach()), test_utils=checks
    )
    for need_x, need_lora in ((True, True), (False, True), (True, False)):
        torch.library.opcheck(
            operators.sparse_lora_backward,
            (case.grad_out, case.x, *arguments, need_x, need_lora),
            test_utils=checks,
        )


def test_whoever_traces_sees_the_operators_and_nothing_inside():
    case = layer((16, 24, 4))

    def step(x):
        return torch.autograd.grad(forward(case, x).sum(), (x, case.lora_a))

    graph = make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)(case.x.requires_grad_()).graph
    called = [node.target for node in graph.nodes if node.op == "call_function"]
    assert torch.ops.ressa.sparse_lora_forward.default in called
    assert torch.ops.ressa.sparse_lora_backward.default in called
    assert torch.ops.aten.mm.default not in called


def test_misuse_is_refused_in_one_sentence():
    case = layer((16, 24, 4))
    with pytest.raises(UsageError, match="cast one"):
        forward(case, case.x.bfloat16())
    with pytest.raises(UsageError, match="uint8 16×3, not"):
        sparse_lora_linear(case.x, case.weight, case.mask, case.lora_a, case.lora_b, 2.0)
    with pytest.raises(UsageError, match=r"\(r, 24\)"):
        sparse_lora_linear(case.x, case.weight, case.packed, case.lora_b, case.lora_a, 2.0)
    case.weight.requires_grad_()
    with pytest.raises(UsageError, match="frozen"):
        forward(case, case.x)
