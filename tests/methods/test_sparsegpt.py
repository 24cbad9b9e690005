"""SparseGPT against exact Optimal Brain Surgeon by brute force, and against simpler methods."""

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ressa.calibration.statistics import Hessian
from ressa.errors import RunError, UsageError
from ressa.kernels.column_sweep import select_group
from ressa.methods import get_method, sparsegpt
from ressa.sparsity import NM, Unstructured


def correlated(width, seed, tokens=200):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator) * 0.7 + torch.eye(width)
    return torch.randn(tokens, width, generator=generator) @ mixing + torch.randn(width, generator=generator)


def hessian_of(inputs):
    statistics = Hessian(inputs.shape[-1])
    statistics.update(inputs)
    return statistics


def layer_error(weight, pruned, inputs):
    return float((inputs.double() @ (weight.double() - pruned.double()).T).square().sum())


def brute_force_obs(weight, inputs, pattern, percdamp, blocksize):
    """The same sweep in fp64 without a Cholesky factor: every step solves its own system of H_F."""
    W, x = weight.double().clone(), inputs.double()
    H = 2 * x.T @ x / len(x)
    H += percdamp * H.diagonal().mean() * torch.eye(len(H), dtype=torch.float64)
    rows, width = W.shape
    mask = torch.ones(rows, width, dtype=torch.bool)
    group = pattern.m if isinstance(pattern, NM) else blocksize
    for j in range(width):
        if j % group == 0:
            columns = range(j, min(j + group, width))
            inverse = torch.stack([torch.linalg.inv(H[c:, c:])[0, 0] for c in columns])
            scores = W[:, columns.start : columns.stop] ** 2 / inverse
            if isinstance(pattern, NM):
                order = scores.argsort(dim=1)[:, : pattern.m - pattern.n]
                mask[:, columns.start : columns.stop] = torch.ones_like(scores, dtype=torch.bool).scatter(
                    1, order, False
                )
            else:  # all rows of the block compared, as in the paper
                zeros = round(pattern.sparsity * rows * columns.stop) - round(
                    pattern.sparsity * rows * columns.start
                )
                chosen = torch.ones(scores.numel(), dtype=torch.bool)
                chosen[scores.flatten().argsort()[:zeros]] = False
                mask[:, columns.start : columns.stop] = chosen.reshape(scores.shape)
        for row in range(rows):
            if not mask[row, j]:
                w = float(W[row, j])
                rest = slice(j + 1, width)
                W[row, rest] += w * torch.linalg.solve(H[rest, rest], H[rest, j])
                W[row, j] = 0
    return mask, W


@pytest.mark.parametrize(
    "pattern",
    [Unstructured(0.5, "layer"), Unstructured(0.75, "layer"), NM(2, 4), NM(1, 4), NM(4, 8)],
    ids=str,
)
@pytest.mark.parametrize("blocksize", [8, 16, 128])
@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_exact_obs(pattern, blocksize, seed):
    inputs = correlated(24, seed)
    weight = torch.randn(6, 24, generator=torch.Generator().manual_seed(seed + 100))
    mask, pruned = sparsegpt.apply(weight, hessian_of(inputs), pattern, blocksize=blocksize)
    expected_mask, expected = brute_force_obs(weight, inputs, pattern, 0.01, blocksize)
    assert torch.equal(mask, expected_mask)
    torch.testing.assert_close(pruned.double(), expected, rtol=1e-4, atol=1e-5)


def test_the_update_is_the_best_that_the_frozen_left_allows():
    """With the first column gone, no other choice of the rest errs less (least squares in fp64)."""
    inputs = correlated(8, 3).double()
    weight = torch.randn(1, 8, generator=torch.Generator().manual_seed(3))
    weight[0, 0] = 1e-3
    mask, pruned = sparsegpt.apply(
        weight, hessian_of(inputs.float()), Unstructured(1 / 8, "layer"), percdamp=0, blocksize=8
    )
    assert not mask[0, 0]
    best = torch.linalg.lstsq(inputs[:, 1:], inputs @ weight[0].double()).solution
    torch.testing.assert_close(pruned[0, 1:].double(), best, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "pattern",
    [Unstructured(0.5, "layer"), Unstructured(0.5), Unstructured(0.7, "layer"), NM(2, 4), NM(4, 8)],
    ids=str,
)
@pytest.mark.parametrize("seed", range(3))
def test_it_loses_less_than_wanda_and_wanda_less_than_magnitude(pattern, seed):
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(-1, 0.5, 128)[torch.randperm(128, generator=generator)]
    inputs = correlated(128, seed, tokens=1000) * scales
    weight = torch.randn(48, 128, generator=generator)
    sparsegpts, wandas, magnitudes = (
        layer_error(weight, get_method(name).apply(weight, hessian_of(inputs), pattern)[1], inputs)
        for name in ("sparsegpt", "wanda", "magnitude")
    )
    assert sparsegpts < 0.9 * wandas
    assert wandas < 0.9 * magnitudes


def test_independent_inputs_leave_kept_weights_alone():
    inputs = torch.eye(16).repeat(4, 1) * torch.arange(1.0, 17.0)
    weight = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    mask, pruned = sparsegpt.apply(weight, hessian_of(inputs), NM(2, 4))
    assert torch.equal(pruned, weight * mask)


@settings(deadline=None, max_examples=20)
@given(
    st.integers(0, 2**31),
    st.sampled_from([2.0**-14, 2.0**14]),
    st.sampled_from([NM(2, 4), Unstructured(0.5)]),
)
def test_the_scale_of_the_inputs_does_not_matter(seed, scale, pattern):
    inputs = correlated(16, seed)
    weight = torch.randn(6, 16, generator=torch.Generator().manual_seed(seed))
    mask, pruned = sparsegpt.apply(weight, hessian_of(inputs), pattern)
    scaled_mask, scaled = sparsegpt.apply(weight, hessian_of(inputs * scale), pattern)
    assert torch.equal(mask, scaled_mask)
    torch.testing.assert_close(scaled, pruned)


def test_weights_of_dead_inputs_go_first_and_disturb_nothing():
    inputs = correlated(16, 5)
    inputs[:, [2, 5, 11]] = 0
    weight = torch.randn(6, 16, generator=torch.Generator().manual_seed(5))
    weight[:, [2, 5, 11]] = 1000
    mask, pruned = sparsegpt.apply(weight, hessian_of(inputs), NM(2, 4))
    assert not mask[:, [2, 5, 11]].any()
    without = weight.clone()
    without[:, [2, 5, 11]] = 0
    assert torch.equal(sparsegpt.apply(without, hessian_of(inputs), NM(2, 4))[1], pruned)


def test_all_inputs_dead_is_no_failure():
    weight = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    mask, pruned = sparsegpt.apply(weight, hessian_of(torch.zeros(5, 8)), NM(2, 4))
    assert torch.equal(pruned, weight * mask)


def test_a_singular_hessian_is_damped_further_and_reported(caplog):
    inputs = correlated(16, 7)[:3]  # rank 3
    weight = torch.randn(6, 16, generator=torch.Generator().manual_seed(7))
    with caplog.at_level(logging.WARNING):
        mask, pruned = sparsegpt.apply(weight, hessian_of(inputs), NM(2, 4), percdamp=0, name="block.fc")
    assert torch.isfinite(pruned).all()
    assert int(mask.sum()) == 48
    (record,) = caplog.records
    assert "block.fc" in record.getMessage()
    assert "not positive definite" in record.getMessage()


def test_a_sound_hessian_is_not_reported(caplog):
    sparsegpt.apply(torch.ones(2, 16), hessian_of(correlated(16, 7)), NM(2, 4))
    assert not caplog.records


def test_options_and_inputs_out_of_range_are_refused():
    statistics = hessian_of(correlated(16, 0))
    for options in ({"percdamp": -0.1}, {"blocksize": 0}):
        with pytest.raises(UsageError, match="percdamp"):
            sparsegpt.apply(torch.ones(2, 16), statistics, NM(2, 4), **options)
    inputs = correlated(16, 0)
    inputs[0, 0] = float("inf")
    with pytest.raises(RunError, match=r"block\.fc hold NaN or infinity"):
        sparsegpt.apply(torch.ones(2, 16), hessian_of(inputs), NM(2, 4), name="block.fc")


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 6),
    st.sampled_from([(1, 2), (2, 4), (5, 8), (8, 16)]),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_the_sweeps_own_group_choice_is_the_patterns(rows, n_m, tied, seed):
    n, m = n_m
    scores = torch.rand(rows, m, generator=torch.Generator().manual_seed(seed))
    if tied:
        scores = (scores * 3).round()
    assert torch.equal(select_group(scores.T, n).T, NM(n, m).select(scores))
