"""Random, magnitude and Wanda against their definitions."""

import pytest
import torch

from ressa.calibration.statistics import Hessian, InputMoments, InputNorm
from ressa.methods import magnitude, random, wanda
from ressa.sparsity import NM, Unstructured, global_plan, select_global


@pytest.fixture
def layer():
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(12, 32, generator=generator)
    inputs = (
        torch.randn(5, 9, 32, generator=generator)
        * torch.logspace(-1, 1, 32)[torch.randperm(32, generator=generator)]
    )
    return weight, inputs


def gathered(kind, inputs):
    statistics = kind(inputs.shape[-1])
    statistics.update(inputs)
    return statistics


def test_random_masks_belong_to_the_seed_and_the_layer():
    weight = torch.ones(16, 64)
    masks = {
        (name, seed): random.apply(weight, None, Unstructured(0.5), name=name, seed=seed)[0]
        for name in ("a", "b")
        for seed in (0, 1)
    }
    assert torch.equal(masks["a", 0], random.apply(-weight, None, Unstructured(0.5), name="a", seed=0)[0])
    distinct = {tuple(mask.flatten().tolist()) for mask in masks.values()}
    assert len(distinct) == 4


def test_random_does_not_disturb_the_global_generator():
    state = torch.get_rng_state()
    random.apply(torch.ones(4, 8), None, NM(2, 4), name="a", seed=0)
    assert torch.equal(state, torch.get_rng_state())


def test_random_has_no_favourite_column():
    mask, _ = random.apply(torch.ones(4000, 8), None, NM(2, 4), name="a", seed=0)
    assert mask.float().mean(0).sub(0.5).abs().max() < 0.04  # five standard deviations


def test_magnitude_prunes_the_smallest_of_the_layer(layer):
    weight, _ = layer
    mask, _ = magnitude.apply(weight, None, Unstructured(0.25, "layer"))
    assert weight[~mask].abs().max() < weight[mask].abs().min()
    assert int((~mask).sum()) == 96


def test_global_magnitude_compares_layers_with_each_other(layer):
    weight, _ = layer
    weights = {"weak": weight / 10, "strong": weight * 2}
    scores = {name: magnitude.score(each) for name, each in weights.items()}
    masks = select_global(scores, 0.5)
    for name, pattern in global_plan(scores, 0.5).items():
        mask, _ = magnitude.apply(weights[name], None, pattern)
        assert torch.equal(mask, masks[name])
    assert masks["weak"].float().mean() < 0.2 < 0.8 < masks["strong"].float().mean()


@pytest.mark.parametrize("kind", [InputNorm, InputMoments, Hessian])
def test_wanda_keeps_the_highest_weight_times_input_norm_of_each_row(layer, kind):
    weight, inputs = layer
    scores = weight.abs() * inputs.flatten(0, 1).norm(dim=0)
    mask, pruned = wanda.apply(weight, gathered(kind, inputs), Unstructured(0.6))
    for row in range(len(weight)):
        expected = scores[row].argsort(descending=True)[:13].sort().values  # round(0.6 · 32) = 19 go
        assert mask[row].nonzero().flatten().tolist() == expected.tolist()
    assert torch.equal(pruned, weight * mask)


def test_wanda_compares_within_the_group_under_n_m(layer):
    weight, inputs = layer
    scores = (weight.abs() * inputs.flatten(0, 1).norm(dim=0)).reshape(12, 8, 4)
    mask, _ = wanda.apply(weight, gathered(InputNorm, inputs), NM(2, 4))
    expected = torch.zeros(12, 8, 4, dtype=torch.bool).scatter(2, scores.topk(2, dim=2).indices, True)
    assert torch.equal(mask, expected.reshape(12, 32))


def test_wanda_looks_at_the_inputs():
    weight = torch.tensor([[1.0, 0.9, 0.8, 0.7]])
    inputs = torch.tensor([[[0.1, 0.1, 10.0, 10.0]]])
    mask, _ = wanda.apply(weight, gathered(InputNorm, inputs), NM(2, 4))
    assert mask.tolist() == [[False, False, True, True]]
