"""DSnoT: what it minimises never rises, and its first swaps are those of the paper."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ressa.calibration.statistics import Hessian, InputMoments
from ressa.errors import UsageError
from ressa.methods import dsnot, magnitude, sparsegpt, wanda
from ressa.sparsity import NM, Unstructured

PATTERNS = [Unstructured(0.5), Unstructured(0.7), Unstructured(0.4, "layer"), NM(2, 4), NM(1, 4), NM(4, 8)]


def layer(seed, rows=8, width=32):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(3, 10, width, generator=generator) + torch.randn(width, generator=generator)
    return torch.randn(rows, width, generator=generator), inputs


def gathered(inputs, kind=InputMoments):
    statistics = kind(inputs.shape[-1])
    statistics.update(inputs)
    return statistics


@pytest.mark.parametrize("start", dsnot.STARTS)
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**31), same_sign=st.booleans(), cycles=st.integers(0, 60))
def test_no_row_ends_with_a_larger_expected_error(start, pattern, seed, same_sign, cycles):
    weight, inputs = layer(seed)
    statistics = gathered(inputs, dsnot.choose_statistics({"start": start}))
    initial = {
        "wanda": lambda: wanda.score(weight, statistics),
        "magnitude": lambda: magnitude.score(weight),
        "sparsegpt": lambda: sparsegpt.score(weight, statistics),
    }[start]()
    before = pattern.select(initial)
    after, _ = dsnot.apply(
        weight, statistics, pattern, start=start, same_sign=same_sign, max_cycle_time=cycles
    )
    # the errors from their definition: the outputs' sum over a sample, averaged over samples
    error = {
        name: (inputs.double().sum(1) @ (weight * ~mask).double().T).mean(0).abs()
        for name, mask in (("before", before), ("after", after))
    }
    assert (error["after"] <= error["before"] + 1e-4).all()
    assert torch.equal(after.sum(1), before.sum(1))
    if isinstance(pattern, NM):
        assert bool((after.reshape(-1, pattern.m).sum(1) == pattern.n).all())
    if cycles == 0:
        assert torch.equal(after, before)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_it_does_lower_the_error(pattern):
    weight, inputs = layer(1, rows=64, width=128)
    statistics = gathered(inputs)
    before = pattern.select(wanda.score(weight, statistics))
    after, _ = dsnot.apply(weight, statistics, pattern)
    lost, left = (dsnot.expected_error(weight, mask, statistics).abs().mean() for mask in (before, after))
    assert left < 0.7 * lost


def example(values, means, variances=None):
    """One row whose inputs have exactly these means, over two tokens per sample."""
    means = torch.tensor(means)
    spread = torch.tensor(variances or [1.0] * len(means)).sqrt()
    return torch.tensor([values]), gathered(torch.stack([means + spread, means - spread]).unsqueeze(0))


def test_it_regrows_the_largest_contribution_and_prunes_the_cheapest_of_the_other_sign():
    # magnitude prunes the last three: ε = 2·(0.3 + 0.2 + 0.1) = 1.2 > 0 (two tokens a sample, mean 1)
    weight, statistics = example([1.0, -0.9, -0.5, 0.3, 0.2, 0.1], [1.0] * 6)
    mask, _ = dsnot.apply(weight, statistics, Unstructured(0.5), start="magnitude", max_cycle_time=1)
    # regrow 0.3, prune −0.5: ε = 2·(−0.5 + 0.2 + 0.1) = −0.4, nearer to 0
    assert mask.tolist() == [[True, True, False, True, False, False]]


def test_a_steady_input_is_regrown_before_a_noisy_one():
    weight, statistics = example([2.0, -0.9, -0.5, 0.3, 0.29, 0.1], [1.0] * 6, [1, 1, 1, 4.0, 1.0, 1])
    mask, _ = dsnot.apply(weight, statistics, Unstructured(0.5), start="magnitude", max_cycle_time=1)
    assert mask.tolist() == [[True, True, False, False, True, False]]
    mask, _ = dsnot.apply(
        weight, statistics, Unstructured(0.5), start="magnitude", max_cycle_time=1, pow_of_var_regrowing=0
    )
    assert mask.tolist() == [[True, True, False, True, False, False]]


def test_under_n_m_the_partner_is_the_least_important_of_the_same_group():
    weight, statistics = example([1.0, -0.9, 0.6, 0.5, 3.0, -0.8, 0.1, 0.0], [1.0] * 8)
    mask, _ = dsnot.apply(
        weight, statistics, NM(2, 4), start="magnitude", max_cycle_time=1, update_threshold=0
    )
    # ε = 2·(0.6 + 0.5 + 0.1) = 2.4; regrow 0.6, prune −0.9 of its group: ε = −0.6, which changes sign
    assert mask.tolist() == [[True, True, False, False, True, True, False, False]]
    weight[0, 1] = -0.55
    weight[0, 2:4] = 0.5
    mask, _ = dsnot.apply(
        weight, statistics, NM(2, 4), start="magnitude", max_cycle_time=1, update_threshold=0
    )
    # ε = 2·(0.5 + 0.5 + 0.1) = 2.2; regrow 0.5 (the earlier), prune −0.55: ε = 0.1, same sign
    assert mask.tolist() == [[True, False, True, False, True, True, False, False]]


def test_a_row_below_the_threshold_rests():
    weight, statistics = example([1.0, -0.9, -0.5, 0.3, 0.2, 0.1], [1.0] * 6)
    for threshold, moved in ((1.1, True), (1.3, False)):  # ε = 1.2
        mask, _ = dsnot.apply(
            weight, statistics, Unstructured(0.5), start="magnitude", update_threshold=threshold
        )
        assert (mask.tolist() != [[True, True, True, False, False, False]]) is moved


def test_same_sign_forbids_overshooting():
    weight, statistics = example([1.0, -0.9, -0.8, 0.3, 0.2, 0.1], [1.0] * 6)  # one swap: ε 1.2 → −1.0
    free, _ = dsnot.apply(weight, statistics, Unstructured(0.5), start="magnitude", max_cycle_time=1)
    bound, _ = dsnot.apply(
        weight, statistics, Unstructured(0.5), start="magnitude", max_cycle_time=1, same_sign=True
    )
    assert free.tolist() == [[True, True, False, True, False, False]]
    assert bound.tolist() == [[True, True, True, False, False, False]]


def test_skipped_layers_keep_the_starting_mask():
    weight, inputs = layer(2)
    statistics = gathered(inputs)
    start = Unstructured(0.5).select(wanda.score(weight, statistics))
    skipped, _ = dsnot.apply(weight, statistics, Unstructured(0.5), name="blocks.0.mlp.fc1", skip="mlp")
    tuned, _ = dsnot.apply(weight, statistics, Unstructured(0.5), name="blocks.0.attn.qkv", skip=["mlp"])
    assert torch.equal(skipped, start)
    assert not torch.equal(tuned, start)


def test_a_start_that_does_not_exist_is_refused():
    weight, inputs = layer(0)
    with pytest.raises(UsageError, match="wanda, magnitude, sparsegpt"):
        dsnot.apply(weight, gathered(inputs), NM(2, 4), start="random")
    assert isinstance(gathered(inputs, Hessian), Hessian)
