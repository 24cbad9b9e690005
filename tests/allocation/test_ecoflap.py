"""ECoFLaP's scores are the paper's, and what it keeps is shared out as its code does."""

import pytest
import torch
from families import FAMILIES
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ressa.allocation import batching
from ressa.allocation.budget import Layer, Pool, make_pools, saved
from ressa.allocation.ecoflap import ecoflap, first_order_scores, share_out, zeroth_order_scores
from ressa.allocation.outputs import Outputs, quiet
from ressa.anatomy import find_anatomy

FAMILY = FAMILIES["instructblip-t5"]


class Quadratic:
    """Stands where `Outputs` does: L(w) = Σ a·w² + Σ b·w over two linears, one batch, so that everything is known."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.model = nn.ModuleDict(
            {"one": nn.Linear(5, 3, bias=False), "two": nn.Linear(4, 6, bias=False)}
        ).double()
        self.curves = {
            n: torch.randn(m.weight.shape, generator=generator).double() for n, m in self.model.items()
        }
        self.slopes = {
            n: torch.randn(m.weight.shape, generator=generator).double() for n, m in self.model.items()
        }
        for module in self.model.values():
            nn.init.normal_(module.weight, generator=generator)
        self.batches = [None]

    def task_loss(self, index):
        return sum(
            (self.curves[n] * m.weight**2 + self.slopes[n] * m.weight).sum() for n, m in self.model.items()
        )

    def gradient(self, name):
        return 2 * self.curves[name] * self.model[name].weight.detach() + self.slopes[name]


GROUPS = {
    name: (Layer(name, "vision", name, *shape),) for name, shape in {"one": (3, 5), "two": (6, 4)}.items()
}


def test_zeroth_order_is_the_slope_along_its_noise():
    """On a quadratic the difference quotient is exact: |∇L·z| for the z of the seed."""
    quadratic = Quadratic()
    before = {n: m.weight.detach().clone() for n, m in quadratic.model.items()}
    scores = zeroth_order_scores(quadratic, GROUPS, epsilon=1e-2, seed=4)
    for place, name in enumerate(GROUPS):
        generator = torch.Generator().manual_seed(4 * 1_000_003 + place * 10_007)
        z = torch.randn(before[name].shape, generator=generator)
        expected = (quadratic.gradient(name) * z).sum().abs().item()
        assert scores[name] == pytest.approx(expected, rel=1e-3)  # weights are perturbed in float32
        assert torch.equal(quadratic.model[name].weight, before[name])


def test_first_order_is_weight_times_gradient():
    quadratic = Quadratic()
    scores = first_order_scores(quadratic, GROUPS)
    for name in GROUPS:
        expected = (quadratic.model[name].weight * quadratic.gradient(name)).abs().sum().item()
        assert scores[name] == pytest.approx(expected, rel=1e-5)


def test_in_the_codes_form_the_first_order_squares_the_weight():
    quadratic = Quadratic()
    scores = first_order_scores(quadratic, GROUPS, "code")
    for name in GROUPS:
        weight = quadratic.model[name].weight.detach()
        assert scores[name] == pytest.approx(
            (weight**2 * quadratic.gradient(name)).abs().sum().item(), rel=1e-5
        )


def test_in_the_codes_form_the_zeroth_order_adds_up_linears_drawn_one_by_one():
    quadratic = Quadratic()
    together = {"both": tuple(layer for layers in GROUPS.values() for layer in layers)}
    scores = zeroth_order_scores(quadratic, together, epsilon=1e-2, seed=4, form="code")
    alone = zeroth_order_scores(quadratic, GROUPS, epsilon=1e-2, seed=4)
    assert scores["both"] == pytest.approx(alone["one"] + alone["two"], rel=1e-6)


def test_first_order_on_a_model_is_the_mean_over_batches_of_autograd():
    model = FAMILY.model()
    anatomy = find_anatomy(model)
    batches = [FAMILY.batch(0), FAMILY.batch(10)]
    (pool,) = make_pools(model, anatomy, {"vision": 0.5, "language": 0.5})
    outputs = Outputs(model, batches)
    with quiet(model):
        scores = first_order_scores(outputs, pool.groups())
    block = anatomy.blocks("language")[-1]
    expected = 0.0
    for batch in batches:
        model.zero_grad()
        model(**batch).loss.backward()
        for name in block.linears:
            weight = model.get_submodule(name).weight
            expected += (weight * weight.grad).abs().sum().item() / 2
    assert scores[block.name] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("order", ["first", "zeroth"])
@pytest.mark.parametrize("joint", [True, False])
def test_a_plan_meets_the_budget_and_the_cap_and_leaves_the_model_alone(order, joint):
    model = FAMILY.model().to(torch.bfloat16)
    wanting = [p.requires_grad for p in model.parameters()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    anatomy = find_anatomy(model)
    targets = {"vision": 0.4, "language": 0.6}
    batches = [FAMILY.batch(0)]
    made = ecoflap(model, batches, targets, order=order, joint=joint, seed=1)
    again = ecoflap(model, batches, targets, order=order, joint=joint, seed=1)
    assert made.plan.to_dict() == again.plan.to_dict()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == wanting
    for pool in make_pools(model, anatomy, targets, joint=joint):
        row = min(layer.rows for layer in pool.layers)
        assert abs(saved(made.plan, pool.layers) - pool.zeros) <= row / 2
        for layer in pool.layers:
            share = made.plan[layer.name].sparsity if layer.name in made.plan else 0.0
            assert share <= pool.sparsity + 0.1 + 1e-9


def official(sizes, scores, keep_in_all, highest):
    """The loop of the official code, on real numbers: what is left is shared by score until none is left."""
    keep = [size * (1 - highest) for size in sizes]
    scores = list(scores)
    for _ in range(1000):
        rest = keep_in_all - sum(keep)
        if rest < 1e-9 or sum(scores) == 0:
            break
        total = sum(scores)
        keep = [k + s / total * rest for k, s in zip(keep, scores, strict=True)]
        scores = [0.0 if k >= size else s for k, s, size in zip(keep, scores, sizes, strict=True)]
        keep = [min(k, size) for k, size in zip(keep, sizes, strict=True)]
    return keep


@given(
    st.lists(st.tuples(st.integers(1, 9), st.floats(0.01, 100)), min_size=1, max_size=6), st.floats(0.2, 0.8)
)
def test_sharing_out_is_the_official_loop(blocks, target):
    layers = tuple(Layer(str(i), "vision", str(i), rows, 16) for i, (rows, _) in enumerate(blocks))
    scores = {str(i): score for i, (_, score) in enumerate(blocks)}
    size = sum(layer.size for layer in layers)
    highest = min(1.0, target + 0.1)
    shares = share_out(Pool(layers, target * size), scores, highest)
    expected = official([l.size for l in layers], scores.values(), size * (1 - target), highest)
    kept = [(1 - shares[l.name]) * l.size for l in layers]
    assert kept == pytest.approx(expected, abs=1e-4 * size)


def test_its_loss_is_that_of_one_sample_at_a_time_of_32_as_in_the_official_code():
    assert batching("ecoflap-zeroth", 128, 16) == batching("ecoflap-first", 128, 16) == (32, 1)
    assert batching("ecoflap-first", 8, 16) == (8, 1)
    assert batching("auto", 128, 16) == (128, 16)


def test_without_any_score_everything_gets_the_same():
    layers = (Layer("a", "vision", "a", 4, 8), Layer("b", "vision", "b", 2, 8))
    assert share_out(Pool(layers, 24), {"a": 0.0, "b": 0.0}, 0.6) == {"a": 0.5, "b": 0.5}
