"""Pruning makes the zeros that were asked for, touches nothing else, and goes on where it was cut short."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import killed_run
import pytest
import torch
from families import FAMILIES, Family, every_family
from torch import Tensor, nn

from ressa import pruning
from ressa.allocation import per_tower
from ressa.anatomy import find_anatomy
from ressa.errors import RunError, UsageError
from ressa.methods import Method
from ressa.pruning import prune
from ressa.sparsity import NM, Pattern, Plan, Unstructured, select_global
from ressa.warned import RessaWarning, recorded

HALF = Unstructured(0.5)


def batches_of(family: Family) -> list[dict[str, Tensor]]:
    return [family.batch(seed) for seed in (0, 10)]


def plan_of(model: nn.Module, pattern: Pattern, *towers: str) -> Plan:
    return per_tower(find_anatomy(model), model, dict.fromkeys(towers or ("vision", "language"), pattern))


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@every_family
@pytest.mark.parametrize("pattern", [NM(2, 4), HALF], ids=str)
@pytest.mark.parametrize("method", ["magnitude", "wanda"])
def test_the_asked_zeros_and_no_others(family, method, pattern):
    model = family.model()
    before = weights_of(model)
    plan = plan_of(model, pattern)
    result = prune(model, batches_of(family), plan=plan, method=method)
    after = model.state_dict()
    assert set(result.masks) == set(plan)
    assert list(result.masks) == [layer.name for layer in result.layers]
    for layer in result.layers:
        mask, weight = result.masks[layer.name], after[f"{layer.name}.weight"]
        assert mask.dtype == torch.bool
        assert mask.shape == layer.shape == tuple(weight.shape)
        assert (~mask).sum() == pattern.zeros(weight.shape) == (weight == 0).sum()
        assert pattern.verify(weight != 0)
        assert torch.equal(weight, before[f"{layer.name}.weight"] * mask)  # kept weights are unchanged
        assert (layer.asked, layer.achieved) == (str(pattern), 0.5)
    pruned = {f"{name}.weight" for name in plan}
    assert all(torch.equal(after[name], value) for name, value in before.items() if name not in pruned)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ["random", "magnitude", "wanda", "sparsegpt", "dsnot"])
@pytest.mark.parametrize("name", ["instructblip-t5", "llava"])
def test_every_method_prunes_every_tower(name, method, dtype):
    family = FAMILIES[name]
    model = family.model().to(dtype)
    plan = per_tower(
        find_anatomy(model), model, {"vision": NM(2, 4), "connector": NM(4, 8), "language": HALF}
    )
    result = prune(model, batches_of(family), plan=plan, method=method)
    modules = dict(model.named_modules())
    for layer, mask in result.masks.items():
        weight = modules[layer].weight
        assert weight.dtype == dtype
        assert not weight[~mask].any()
        assert plan[layer].verify(mask)
    assert {layer.tower for layer in result.layers} == {"vision", "connector", "language"}


def test_the_seed_decides_random_masks():
    def masks(seed: int) -> dict[str, Tensor]:
        model = FAMILIES["llava"].model()
        return prune(model, [], plan=plan_of(model, HALF), method="random", seed=seed).masks

    assert all(torch.equal(mask, masks(3)[name]) for name, mask in masks(3).items())
    assert not all(torch.equal(mask, masks(4)[name]) for name, mask in masks(3).items())


def test_options_reach_the_method():
    family = FAMILIES["llava"]

    def pruned(**options) -> dict[str, Tensor]:
        model = family.model()
        plan = plan_of(model, HALF, "language")
        prune(model, batches_of(family), plan=plan, method="sparsegpt", options=options)
        return weights_of(model)

    damped, usual = pruned(percdamp=1.0), pruned()
    assert any(not torch.equal(damped[name], usual[name]) for name in usual)


def test_image_tokens_can_be_chosen():
    family = FAMILIES["llava"]

    def masks(**choice) -> dict[str, Tensor]:
        model = family.model()
        return prune(model, batches_of(family), plan=plan_of(model, HALF), **choice).masks

    everything, chosen = masks(), masks(tokens="atv", alpha=0.0)
    differing = {name for name in everything if not torch.equal(everything[name], chosen[name])}
    assert differing
    assert all("language_model" in name for name in differing)


def test_one_threshold_over_all_layers():
    model = FAMILIES["llava"].model()
    plan = plan_of(model, Unstructured(0.7))
    modules = dict(model.named_modules())
    expected = select_global({name: modules[name].weight.detach().abs() for name in plan}, 0.7)
    result = prune(model, [], plan=plan, method="magnitude", scope="global")
    assert all(torch.equal(result.masks[name], mask) for name, mask in expected.items())
    assert len({str(pattern) for pattern in result.plan.values()}) > 1  # each layer got its own share


@pytest.mark.parametrize(
    ("method", "patterns"),
    [("wanda", {"vision": HALF}), ("magnitude", {"vision": HALF, "language": NM(2, 4)})],
)
def test_one_threshold_needs_magnitudes_and_one_sparsity(method, patterns):
    model = FAMILIES["llava"].model()
    plan = per_tower(find_anatomy(model), model, patterns)
    with pytest.raises(UsageError, match="magnitude"):
        prune(model, batches_of(FAMILIES["llava"]), plan=plan, method=method, scope="global")


def refused(match: str, **changes) -> None:
    """Pruning is refused in one sentence and the model is untouched."""
    family = FAMILIES["llava"]
    model = family.model()
    before = weights_of(model)
    given = {"batches": batches_of(family), "plan": plan_of(model, HALF), **changes}
    with pytest.raises(UsageError, match=match) as refusal:
        prune(model, given.pop("batches"), **given)
    assert "\n" not in str(refusal.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_wrong_usage_is_refused_before_anything_changes():
    layer = "model.language_model.layers.0.self_attn.q_proj"
    refused("names no layer", plan=Plan({}))
    refused("lm_head", plan=Plan({"lm_head": HALF}))
    refused(f"{layer}.*7:9.*24 inputs", plan=Plan({layer: NM(7, 9)}))
    refused("calibration set is empty", batches=[])
    refused("without an image", batches=[{"input_ids": torch.ones(1, 3, dtype=torch.long)}])
    refused("nonsense", method="nonsense")
    refused("no option 'speed'", options={"speed": 9})
    refused("no tokens", method="magnitude", tokens="atv")


def test_a_method_that_misses_its_pattern_is_an_error(monkeypatch):
    def forgetful(weight, _statistics, pattern, *, name="", seed=0):
        mask = pattern.select(weight.abs())
        return mask, weight.detach().clone()  # forgets to zero what its mask drops

    monkeypatch.setattr(
        pruning,
        "get_method",
        lambda _: Method("forgetful", forgetful, None, updates_weights=False, scope="row"),
    )
    model = FAMILIES["llava"].model()
    with pytest.raises(RunError, match="was to get"):
        prune(model, [], plan=plan_of(model, HALF), method="forgetful")


class Cut(Exception):
    pass


@pytest.mark.parametrize("name", ["instructblip-t5", "qwen3-vl"])
@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
@pytest.mark.parametrize("after", [1, 3, 5])
def test_a_run_that_was_cut_short_goes_on_to_the_same_result(name, method, after, tmp_path, monkeypatch):
    family = FAMILIES[name]
    batches = batches_of(family)
    whole = family.model()
    expected = prune(whole, batches, plan=plan_of(whole, NM(2, 4)), method=method)

    keep = pruning.FinishedBlocks.keep
    kept: list[str] = []

    def cut(self, block, weights, masks):
        if len(kept) == after:
            raise Cut
        kept.append(block.name)
        keep(self, block, weights, masks)

    monkeypatch.setattr(pruning.FinishedBlocks, "keep", cut)
    model = family.model()
    plan = plan_of(model, NM(2, 4))
    with pytest.raises(Cut):
        prune(model, batches, plan=plan, method=method, work_dir=tmp_path / "work")
    monkeypatch.undo()
    done: list[str] = []
    monkeypatch.setattr(
        pruning.FinishedBlocks,
        "keep",
        lambda self, block, w, m: (done.append(block.name), keep(self, block, w, m)),
    )
    again = family.model()
    result = prune(again, batches, plan=plan, method=method, work_dir=tmp_path / "work")
    assert not set(done) & set(kept)  # nothing is done twice
    assert all(torch.equal(result.masks[layer], mask) for layer, mask in expected.masks.items())
    assert all(torch.equal(value, whole.state_dict()[key]) for key, value in again.state_dict().items())
    third = family.model()
    prune(third, batches, plan=plan, method=method, work_dir=tmp_path / "work")  # all blocks are there by now
    assert all(torch.equal(value, whole.state_dict()[key]) for key, value in third.state_dict().items())


def test_unfinished_work_of_something_else_is_refused(tmp_path):
    family = FAMILIES["llava"]
    batches = batches_of(family)
    model = family.model()
    prune(model, batches, plan=plan_of(model, NM(2, 4)), work_dir=tmp_path)
    for changes in (
        {"method": "wanda"},
        {"seed": 1},
        {"plan": plan_of(model, HALF)},
        {"batches": batches[:1]},
        {"model": family.model(seed=1)},
    ):
        given = {"model": family.model(), "batches": batches, "plan": plan_of(model, NM(2, 4)), **changes}
        with pytest.raises(UsageError, match="unfinished work of another"):
            prune(given.pop("model"), given.pop("batches"), **given, work_dir=tmp_path)


def test_a_killed_process_leaves_work_that_another_takes_up(tmp_path):
    work = tmp_path / "work"
    script = Path(__file__).parent / "killed_run.py"
    process = subprocess.run([sys.executable, script, work], env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.returncode == -signal.SIGKILL
    assert len(list(work.glob("*.safetensors"))) == 3
    family, whole, resumed = killed_run.FAMILY, killed_run.FAMILY.model(), killed_run.FAMILY.model()
    plan = killed_run.plan_of(whole)
    prune(whole, batches_of(family), plan=plan, method="sparsegpt")
    prune(resumed, batches_of(family), plan=plan, method="sparsegpt", work_dir=work)
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in whole.state_dict().items())


@pytest.mark.parametrize("pattern", [NM(2, 4), Unstructured(0.7)], ids=str)
@pytest.mark.parametrize("method", ["random", "magnitude", "wanda", "sparsegpt", "dsnot"])
def test_zeros_that_are_there_already_can_be_kept(method, pattern):
    family = FAMILIES["llava"]
    model = family.model()
    before = sparse_already(model)
    result = prune(model, batches_of(family), plan=plan_of(model, pattern), method=method, keep_zeros=True)
    for name, mask in result.masks.items():
        weight, was = model.get_submodule(name).weight, before[name]
        assert torch.equal(weight != 0, mask)
        assert not weight[was == 0].any()
        assert pattern.verify(mask)
        if isinstance(pattern, Unstructured) and method in ("random", "magnitude", "wanda"):
            assert (~mask).sum() == pattern.zeros(mask.shape)  # what was zero is among what is asked for
    assert result.revived == 0


def test_sparsegpt_that_revives_zeros_says_how_many():
    family = FAMILIES["llava"]
    model = family.model()
    before = sparse_already(model)
    plan = plan_of(model, Unstructured(0.5))
    with pytest.warns(RessaWarning, match="weights that were zero have values now"):
        result = prune(model, batches_of(family), plan=plan, method="sparsegpt")
    now = {name: model.get_submodule(name).weight for name in plan}
    assert result.revived == sum(int(((before[name] == 0) & (now[name] != 0)).sum()) for name in plan) > 0
    with recorded() as said:
        assert prune(model, batches_of(family), plan=plan, method="wanda").revived == 0
        assert prune(family.model(), batches_of(family), plan=plan, method="sparsegpt").revived == 0
    assert said == []


def sparse_already(model: nn.Module) -> dict[str, Tensor]:
    """Makes some weights of every layer zero: up to three of a group of four."""
    generator = torch.Generator().manual_seed(1)
    before = {}
    for name in find_anatomy(model).linears():
        weight = model.get_submodule(name).weight
        zero = torch.rand(weight.shape, generator=generator) < 0.4
        zero[:, ::4] = False
        weight.data = weight.data.masked_fill(zero, 0)
        before[name] = weight.detach().clone()
    return before
