"""auto: measures what a plan does, spends the budget, and never ends above the uniform plan."""

import math

import pytest
import torch
from families import FAMILIES
from torch.nn import functional as F

from ressa.allocation import allocate, read_plan, write_plan
from ressa.allocation.auto import auto
from ressa.allocation.budget import make_pools, saved
from ressa.allocation.outputs import Outputs, quiet
from ressa.allocation.slopes import slopes
from ressa.allocation.trial import input_statistics, on_trial
from ressa.anatomy import find_anatomy
from ressa.errors import UsageError
from ressa.methods import wanda
from ressa.pruning import prune
from ressa.sparsity import NM, Plan, Unstructured

NAMES = ["llava", "instructblip-t5"]


def setting(name, dtype=torch.float32):
    family = FAMILIES[name]
    model = family.model().to(dtype)
    return model, [family.batch(0), family.batch(10)], find_anatomy(model)


@pytest.mark.parametrize("name", NAMES)
def test_the_distance_is_the_divergence_at_the_words_to_be_said(name):
    model, batches, anatomy = setting(name)
    outputs = Outputs(model, batches[:1])
    outputs.remember()
    assert outputs.mean_distance() == pytest.approx(0, abs=1e-6)
    labels = batches[0]["labels"]
    with torch.no_grad():
        before = model(**batches[0]).logits
        loss = model(**batches[0]).loss
        assert outputs.task_loss(0).item() == pytest.approx(loss.item(), rel=1e-4)
        model.get_submodule(anatomy.linears("language")[0]).weight.mul_(0.5)
        after = model(**batches[0]).logits
    total = count = 0
    decoder_only = name == "llava"
    for row in range(labels.shape[0]):
        for place in range(labels.shape[1]):
            if labels[row, place] == -100 or (decoder_only and place == 0):
                continue
            at = place - 1 if decoder_only else place
            p, q = F.log_softmax(before[row, at].float(), -1), F.log_softmax(after[row, at].float(), -1)
            total, count = total + (p.exp() * (p - q)).sum().item(), count + 1
    assert count == outputs.tokens[0]
    assert outputs.mean_distance() == pytest.approx(total / count, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_trial_masks_as_wanda_does_and_goes_without_a_trace(dtype):
    model, batches, anatomy = setting("llava", dtype)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layers = anatomy.linears("language")
    statistics = input_statistics(model, anatomy, batches, layers)
    with on_trial(model, {name: s.norm() for name, s in statistics.items()}) as trial:
        for pattern in (Unstructured(0.5), NM(2, 4), Unstructured(0.3)):
            trial.put(dict.fromkeys(layers, pattern))
            for name in layers:
                expected, pruned = wanda.apply(before[f"{name}.weight"], statistics[name], pattern)
                assert torch.equal(trial.kept(name, pattern), expected)
                assert torch.equal(model.get_submodule(name).weight, pruned)
        trial.put({layers[0]: Unstructured(0.5)})
        assert torch.equal(model.get_submodule(layers[1]).weight, before[f"{layers[1]}.weight"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_slopes_predict_what_a_mask_that_fades_does(name):
    """The slope of a layer is the derivative of the distance by the masks around its threshold."""
    model, batches, anatomy = setting(name)
    layers = anatomy.linears("vision")[:2] + anatomy.linears("language")[-2:]
    statistics = input_statistics(model, anatomy, batches, layers)
    outputs = Outputs(model, batches)
    outputs.remember()
    with quiet(model), on_trial(model, {n: s.norm() for n, s in statistics.items()}) as trial:
        shares = dict.fromkeys(layers, 0.5)
        distance, found = slopes(outputs, trial, shares, [0, 1], reach=0.2)
        assert distance == pytest.approx(outputs.mean_distance(), rel=1e-4)
        for name in layers:
            band, weight, dense = trial.band(name, 0.5, 0.2), trial.weights[name], trial.dense[name]
            step = 1e-3
            ends = []
            for sign in (-step, step):
                with torch.no_grad():
                    weight.add_(band * dense, alpha=sign)
                    ends.append(outputs.mean_distance())
                    weight.sub_(band * dense, alpha=sign)
            by_masks = (ends[1] - ends[0]) / (2 * step)
            assert found[name] == pytest.approx(-by_masks / int(band.sum()), rel=0.05, abs=1e-7)
            assert weight.grad is None
            assert not weight.requires_grad


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "options", [{}, {"joint": False}, {"unit": "multiply-adds"}, {"scope": "layer"}], ids=str
)
def test_shares_meet_the_budget_and_are_no_worse_than_uniform(name, options):
    model, batches, anatomy = setting(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    targets = {"vision": 0.5, "language": 0.6}
    made = auto(model, batches, targets, steps=4, **options)
    assert made.details["unit"] == options.get("unit", "parameters")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert made.details["auto"] <= made.details["uniform"]
    assert len(made.details["steps"]) == 4
    assert made.plan.to_dict() == auto(model, batches, targets, steps=4, **options).plan.to_dict()
    pruned = anatomy.linears("vision") + anatomy.linears("language")
    counts = {layer: s.count / 4 for layer, s in input_statistics(model, anatomy, batches, pruned).items()}
    for unit, costs in (("parameters", None), ("multiply-adds", counts)):
        (whole,) = make_pools(model, anatomy, targets, costs=costs)
        assert made.details["saved"][unit] == pytest.approx(saved(made.plan, whole.layers) / whole.size)
    costs = counts if "unit" in options else None
    for pool in make_pools(model, anatomy, targets, joint=options.get("joint", True), costs=costs):
        move = 1 if options.get("scope") == "layer" else min(l.rows * l.cost for l in pool.layers)
        assert abs(saved(made.plan, pool.layers) - pool.zeros) <= move / 2 + 1e-6
    prune(model, batches, plan=made.plan)


@pytest.mark.parametrize("unit", ["parameters", "multiply-adds"])
@pytest.mark.parametrize("granularity", ["block", "layer"])
def test_choices_save_at_least_the_budget(granularity, unit):
    model, batches, anatomy = setting("llava")
    offered = [NM(6, 8), NM(4, 8), NM(2, 4)]
    options = {"choices": offered, "granularity": granularity, "rounds": 1, "unit": unit}
    made = auto(model, batches, {"vision": 0.3, "language": 0.3}, **options)
    assert made.details["saved"][unit] >= 0.3
    (pool,) = make_pools(model, anatomy, {"vision": 0.3, "language": 0.3})
    assert set(made.plan.values()) <= set(offered)
    assert len(set(made.plan.values())) > 1 or len(made.plan) < len(pool.layers)
    assert made.details["auto"] <= made.details["uniform"]
    assert all(math.isfinite(loss) for curve in made.details["curves"][0].values() for loss in curve.values())


@pytest.mark.parametrize("unit", ["parameters", "multiply-adds"])
def test_choices_can_save_all_that_the_sparsest_of_them_saves(unit):
    model, batches, anatomy = setting("llava")
    towers = dict.fromkeys(("vision", "connector", "language"), 0.5)
    made = auto(model, batches, towers, choices=[NM(4, 8), NM(2, 4)], rounds=1, unit=unit)
    assert set(made.plan) == set(anatomy.linears())
    assert made.details["saved"][unit] == pytest.approx(0.5)


def test_what_cannot_be_measured_is_refused():
    family = FAMILIES["blip-vqa"]
    with pytest.raises(UsageError, match="no logits"):
        auto(family.model(), [family.batch(0)], {"vision": 0.5})
    model, batches, _ = setting("llava")
    wordless = [{key: value for key, value in batch.items() if key != "labels"} for batch in batches]
    with pytest.raises(UsageError, match="samples with targets"):
        auto(model, wordless, {"vision": 0.5})
    with pytest.raises(UsageError, match="uniform, ecoflap-first"):
        allocate("best", model, batches, {"vision": 0.5})
    with pytest.raises(UsageError, match=r"25.0% at most and 50.0% are asked for: offer a sparser"):
        auto(model, batches, {"vision": 0.5}, choices=[NM(6, 8)])
    with pytest.raises(UsageError, match="no unit 'flops'"):
        auto(model, batches, {"vision": 0.5}, unit="flops")


def test_plans_come_back_from_files(tmp_path):
    model, batches, _ = setting("llava")
    made = allocate("owl", model, batches, {"vision": 0.5, "language": 0.5})
    write_plan(tmp_path / "plan.json", made, model="llava")
    assert read_plan(tmp_path / "plan.json").to_dict() == made.plan.to_dict()
    (tmp_path / "ressa.json").write_text('{"plan": {"a": "2:4"}}')
    assert read_plan(tmp_path) == Plan({"a": NM(2, 4)})
    (tmp_path / "bare.json").write_text('{"a": "0.5"}')
    assert read_plan(tmp_path / "bare.json") == Plan({"a": Unstructured(0.5)})
    for text in ("nothing", "[]", "{}", '{"plan": {"a": 1}}'):
        (tmp_path / "wrong.json").write_text(text)
        with pytest.raises(UsageError, match="holds no plan"):
            read_plan(tmp_path / "wrong.json")
    with pytest.raises(UsageError, match="holds no plan"):
        read_plan(tmp_path / "missing.json")
