"""What holds for every method under every pattern."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ressa.calibration.statistics import Hessian, InputMoments, InputNorm
from ressa.errors import RunError, UsageError
from ressa.methods import METHODS, get_method
from ressa.sparsity import NM, Unstructured

VARIANTS = [(name, {}) for name in METHODS] + [
    ("dsnot", {"start": "magnitude"}),
    ("dsnot", {"start": "sparsegpt"}),
    ("sparsegpt", {"blocksize": 5}),
]
PATTERNS = [
    Unstructured(0.0),
    Unstructured(0.5),
    Unstructured(0.37, "layer"),
    Unstructured(0.7),
    Unstructured(0.93, "layer"),
    NM(1, 4),
    NM(2, 4),
    NM(3, 4),
    NM(4, 8),
    NM(8, 16),
]
variants = pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
patterns = pytest.mark.parametrize("pattern", PATTERNS, ids=str)


def run(name, weight, inputs, pattern, **options):
    method = get_method(name)
    kind = method.needs(options)
    statistics = None
    if kind is not None:
        statistics = kind(weight.shape[1])
        statistics.update(inputs)
    return method.apply(weight, statistics, pattern, name="block.fc", seed=7, **options)


def correlated(tokens, width, generator, dead=0):
    """Inputs (1, tokens, width) with correlations, offsets and many scales; the first `dead` are 0."""
    x = torch.randn(1, tokens, width, generator=generator) @ torch.randn(width, width, generator=generator)
    x = (x + 2 * torch.randn(width, generator=generator)) * torch.logspace(-2, 2, width)
    x[..., :dead] = 0
    return x


def weights(shape, kind, generator):
    if kind == "distinct":
        return torch.randn(shape, generator=generator)
    if kind == "ties":
        return torch.randint(-2, 3, shape, generator=generator) / 2
    if kind == "constant":
        return torch.full(shape, 0.25)
    if kind == "zero":
        return torch.zeros(shape)
    exponents = torch.randint(-18, 18, shape, generator=generator)
    return torch.randn(shape, generator=generator).sign() * 10.0**exponents


@variants
@patterns
@settings(deadline=None, max_examples=8)
@given(
    rows=st.integers(1, 6),
    groups=st.integers(1, 3),
    kind=st.sampled_from(["distinct", "ties", "constant", "zero", "extremes"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    dead=st.integers(0, 9),
    tokens=st.integers(1, 40),
    seed=st.integers(0, 2**31),
)
def test_exactly_the_asked_zeros(name, options, pattern, rows, groups, kind, dtype, dead, tokens, seed):
    generator = torch.Generator().manual_seed(seed)
    width = groups * (pattern.m if isinstance(pattern, NM) else 7)
    weight = weights((rows, width), kind, generator).to(dtype)
    before = weight.clone()
    inputs = correlated(tokens, width, generator, dead=min(dead, width)).to(dtype)
    mask, pruned = run(name, weight, inputs, pattern, **options)

    assert torch.equal(weight, before)
    assert mask.shape == pruned.shape == weight.shape
    assert mask.dtype == torch.bool
    assert pruned.dtype == dtype
    assert int((~mask).sum()) == pattern.zeros(weight.shape)
    assert pattern.verify(mask)
    assert not pruned[~mask].any()
    assert torch.isfinite(pruned).all()
    if not METHODS[name].updates_weights:
        assert torch.equal(pruned[mask], weight[mask])
    again, pruned_again = run(name, weight, inputs, pattern, **options)
    assert torch.equal(mask, again)
    assert torch.equal(pruned, pruned_again)


@variants
def test_a_width_that_does_not_fit_is_refused(name, options):
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(UsageError, match="30 inputs"):
        run(name, torch.randn(4, 30, generator=generator), correlated(64, 30, generator), NM(2, 4), **options)


@pytest.mark.parametrize(("name", "options"), [each for each in VARIANTS if each[0] != "random"], ids=str)
@patterns
def test_a_weight_that_is_not_a_number_is_refused(name, options, pattern):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 48, generator=generator)
    weight[2, 20] = torch.nan
    with pytest.raises(RunError):
        run(name, weight, correlated(64, 48, generator), pattern, **options)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.statistics])
def test_inputs_that_are_not_numbers_are_refused(name):
    generator = torch.Generator().manual_seed(0)
    inputs = correlated(64, 16, generator)
    inputs[0, 5, 3] = torch.nan
    with pytest.raises(RunError, match="NaN"):
        run(name, torch.randn(4, 16, generator=generator), inputs, NM(2, 4))


def test_weights_that_want_gradients_are_pruned_without_them():
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(4, 16, generator=generator))
    for name, options in VARIANTS:
        _, pruned = run(name, weight, correlated(64, 16, generator), NM(2, 4), **options)
        assert not pruned.requires_grad


def test_unknown_names_and_options_are_answered_with_the_known_ones():
    with pytest.raises(UsageError, match="wanda, sparsegpt"):
        get_method("wander")
    with pytest.raises(UsageError, match="percdamp, blocksize"):
        get_method("sparsegpt").check_options({"dampening": 0.1})
    with pytest.raises(UsageError, match="none"):
        get_method("wanda").check_options({"percdamp": 0.1})
    get_method("dsnot").check_options(get_method("dsnot").options)


def test_methods_say_which_statistics_they_need():
    assert get_method("random").needs({}) is get_method("magnitude").needs({}) is None
    assert get_method("wanda").needs({}) is InputNorm
    assert get_method("sparsegpt").needs({}) is Hessian
    assert get_method("dsnot").needs({}) is get_method("dsnot").needs({"start": "magnitude"}) is InputMoments
    assert get_method("dsnot").needs({"start": "sparsegpt"}) is Hessian
