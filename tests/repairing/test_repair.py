"""Repair lowers the loss, moves no zero, and leaves plain layers and everything else as it was."""

import copy
import time
from types import SimpleNamespace

import pytest
import torch
from peft import get_peft_model
from repairing.tiny import TinyVlm, logits, pruned_pair, samples, without_dropout
from torch import nn

from ressa.anatomy import find_anatomy
from ressa.data.batcher import Batcher
from ressa.errors import RunError, UsageError
from ressa.repairing import RepairConfig, dense_teacher, repair, training
from ressa.repairing.masked_linear import MaskedLinear, apply_masks, bake_masks
from ressa.repairing.sparse_lora import SparseLoraConfig
from ressa.repairing.student import make_student
from ressa.repairing.teacher import SharedTeacher
from ressa.repairing.weights import adopt_dense_weights, differing_weight, sparsity

FAST = {
    "learning_rate": 3e-2,
    "min_learning_rate": 1e-2,
    "batch_size": 4,
    "steps": 12,
    "device": "cpu",
    "precision": "fp32",
}
FAMILIES = ("instructblip", "llava")
METHODS = ("sparse_lora", "lora", "lora_remask", "masked_finetune")


def batch_of(vlm: TinyVlm, count: int = 4) -> dict[str, torch.Tensor]:
    return Batcher(vlm.processor, vlm.model.config).training(samples(count))


def state(vlm: TinyVlm) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in vlm.model.state_dict().items()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("objective", ["both", "task", "kd"])
def test_repair_lowers_the_loss_and_moves_no_zero(family, objective):
    pruned, masks, dense = pruned_pair(family)
    before, dense_before = state(pruned), state(dense)
    result = repair(pruned, masks, dense, samples(16), RepairConfig(objective=objective, **FAST))
    losses = [entry["loss"] for entry in result.history]
    assert len(losses) == 12
    assert sum(losses[-3:]) < 0.95 * sum(losses[:3])
    assert result.teacher == ("none" if objective == "task" else "shared")
    after = result.vlm.model.state_dict()
    assert after.keys() == before.keys()
    for name, mask in masks.items():
        assert torch.equal(after[f"{name}.weight"] != 0, mask)
    moved = [name for name in masks if not torch.equal(after[f"{name}.weight"], before[f"{name}.weight"])]
    assert len(moved) >= len(masks) - 6  # LLaVA does not use the last vision block
    assert all(torch.equal(dense.model.state_dict()[name], value) for name, value in dense_before.items())
    assert result.sparsity[0] == result.sparsity[1] == sparsity(result.vlm.model, masks)
    assert all(parameter.requires_grad for parameter in result.vlm.model.parameters())
    assert not any(module.training for module in result.vlm.model.modules())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("form", ["auto", "separate"])
def test_every_method_trains_and_only_plain_lora_loses_zeros(method, form):
    pruned, masks, dense = pruned_pair()
    names = [name for name, _ in pruned.model.named_modules()]
    result = repair(pruned, masks, dense, samples(8), RepairConfig(method=method, teacher=form, **FAST))
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    assert [name for name, _ in result.vlm.model.named_modules()] == names
    assert {type(result.vlm.model.get_submodule(name)) for name in masks} == {nn.Linear}
    if method == "lora":
        assert result.sparsity[1] < 0.01
    else:
        for name, mask in masks.items():
            assert not result.vlm.model.get_submodule(name).weight[~mask].any()
    assert result.teacher == ("separate" if form == "separate" or method == "masked_finetune" else "shared")


def test_who_encodes_the_samples_changes_nothing():
    histories = []
    for workers in (0, 2):
        pruned, masks, dense = pruned_pair("llava")
        config = RepairConfig(workers=workers, crops=True, **(FAST | {"steps": 4}))
        history = repair(pruned, masks, dense, samples(8), config).history
        histories.append([entry["loss"] for entry in history])
    assert histories[0] == histories[1]


@pytest.mark.parametrize("method", ["sparse_lora", "masked_finetune"])
def test_minutes_are_as_many_steps_as_were_timed_and_these_leave_no_trace(
    method, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(training.Clock, "seconds", 1.0)
    options = {key: value for key, value in FAST.items() if key != "steps"} | {"method": method}

    def repaired(work, **more):
        pruned, masks, dense = pruned_pair("llava")
        result = repair(pruned, masks, dense, samples(8), RepairConfig(**options, **more), work_dir=work)
        return [entry["loss"] for entry in result.history], state(result.vlm)

    history, weights = repaired(tmp_path, minutes=0.1)
    assert len(history) == 6
    assert "A step takes 1.000 s: 6 in 0.1 minutes." in " ".join(capsys.readouterr().err.split())
    for again in ({"minutes": 0.1}, {"steps": 6}):  # finished work is taken up; the number gives the same
        monkeypatch.setattr(training.Clock, "seconds", 99.0)
        other, others = repaired(tmp_path if "minutes" in again else None, **again)
        if "steps" in again:
            assert other == history
        for name, weight in weights.items():
            assert torch.equal(weight, others[name]), name


def test_a_clock_leaves_the_first_steps_out():
    clock = training.Clock(enough=60)
    clock.ends = [0.0, 9.0, 10.0, 11.0, 12.0, 13.0]
    assert clock.seconds == 1.0


def test_slow_steps_are_timed_no_longer_than_it_takes():
    pruned, masks, dense = pruned_pair("llava")
    options = {key: value for key, value in FAST.items() if key != "steps"}
    started = time.perf_counter()
    result = repair(pruned, masks, dense, samples(8), RepairConfig(**options, minutes=1e-4))
    assert len(result.history) == 1
    assert time.perf_counter() - started < 60


def test_what_is_no_number_of_steps_is_timed_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(training.Clock, "seconds", 1.0)
    options = {key: value for key, value in FAST.items() if key != "steps"}
    for number, note in enumerate(("{}", '{"steps": 0}', "[]", "no JSON")):
        pruned, masks, dense = pruned_pair("llava")
        work = tmp_path / str(number)
        work.mkdir()
        config = RepairConfig(**options, minutes=0.05)
        monkeypatch.setattr(training, "_train", stopped := Stopped())
        with pytest.raises(KeyboardInterrupt):
            repair(pruned, masks, dense, samples(8), config, work_dir=work)
        monkeypatch.undo()
        monkeypatch.setattr(training.Clock, "seconds", 1.0)
        assert stopped.calls == 1
        (work / "steps.json").write_text(note)
        pruned, masks, dense = pruned_pair("llava")
        assert len(repair(pruned, masks, dense, samples(8), config, work_dir=work).history) == 3


class Stopped:
    """Training that is interrupted at once."""

    calls = 0

    def __call__(self, *_args, **_kwargs):
        self.calls += 1
        raise KeyboardInterrupt


def test_samples_are_encoded_beside_a_gpu_where_there_is_room(monkeypatch):
    monkeypatch.setattr(training.os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(training.shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 40))
    monkeypatch.setattr(training.multiprocessing, "get_start_method", lambda: "fork")
    assert training.loaders(on_cpu=False) == training.MOST_LOADERS
    assert training.loaders(on_cpu=True) == 0
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert training.loaders(on_cpu=False) == 1
    monkeypatch.setattr(training.shutil, "disk_usage", lambda _: SimpleNamespace(free=64 << 20))  # Docker's
    assert training.loaders(on_cpu=False) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_and_separate_teachers_give_the_same_repair(family):
    results = []
    for form in ("shared", "separate"):
        pruned, masks, dense = pruned_pair(family)
        config = RepairConfig(teacher=form, hidden_weight=0.1, tune=("language",), **FAST)
        results.append(repair(pruned, masks, dense, samples(8), config))
    for ours, theirs in zip(*(result.history for result in results), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert ours["hidden_loss"] == pytest.approx(theirs["hidden_loss"], rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["sparse_lora", "lora"])
def test_the_bypassed_student_is_the_dense_model_exactly(family, method):
    pruned, masks, dense = pruned_pair(family)
    batch = batch_of(dense)
    want, pruned_want = logits(dense, batch), logits(pruned, batch)
    assert differing_weight(pruned.model, masks, dense.model) is None
    adopt_dense_weights(pruned.model, masks, dense.model)
    config = RepairConfig(method=method, tune=("connector", "language"))
    student = make_student(pruned.model, masks, find_anatomy(pruned.model), config, dense_weights=True)
    for name, parameter in student.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    student.train()
    adapted = [p for p in student.parameters() if p.requires_grad]
    with torch.no_grad(), dense_teacher(student):
        assert torch.equal(student(**batch).logits, want)
    assert torch.equal(SharedTeacher(student)(batch).logits, want)
    assert student.training
    assert all(parameter.requires_grad for parameter in adapted)
    student.eval()
    with torch.no_grad(), student.disable_adapter():
        torch.testing.assert_close(student(**batch).logits, pruned_want)


def test_one_copy_of_the_weights_serves_both():
    pruned, masks, dense = pruned_pair()
    adopt_dense_weights(pruned.model, masks, dense.model)
    for name in masks:
        ours, theirs = pruned.model.get_submodule(name).weight, dense.model.get_submodule(name).weight
        assert ours.data_ptr() == theirs.data_ptr()


def test_dense_weights_may_come_by_name():
    pruned, masks, dense = pruned_pair()
    result = repair(pruned, masks, dict(dense.model.named_parameters()), samples(8), RepairConfig(**FAST))
    again, masks, dense = pruned_pair()
    expected = repair(again, masks, dense, samples(8), RepairConfig(**FAST))
    assert result.history == expected.history


def test_after_updates_of_kept_weights_a_shared_teacher_is_refused():
    pruned, masks, dense = pruned_pair(updated=True)
    with pytest.raises(UsageError, match="separate"):
        repair(pruned, masks, dense, samples(4), RepairConfig(teacher="shared", **FAST))
    with pytest.raises(UsageError, match="in memory"):
        repair(pruned, masks, dict(dense.model.named_parameters()), samples(4), RepairConfig(**FAST))
    result = repair(pruned, masks, dense, samples(8), RepairConfig(**FAST))
    assert result.teacher == "separate"
    assert result.history[-1]["loss"] < result.history[0]["loss"]


def test_bfloat16_weights_keep_their_zeros_and_dtype():
    pruned, masks, dense = pruned_pair("llava", dtype=torch.bfloat16)
    result = repair(pruned, masks, dense, samples(8), RepairConfig(**FAST))
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    for name, mask in masks.items():
        weight = result.vlm.model.get_submodule(name).weight
        assert weight.dtype is torch.bfloat16
        assert torch.equal(weight != 0, mask)


def test_masked_finetuning_of_bfloat16_weights():
    pruned, masks, dense = pruned_pair("llava", dtype=torch.bfloat16)
    result = repair(pruned, masks, dense, samples(8), RepairConfig(method="masked_finetune", **FAST))
    assert {parameter.dtype for parameter in result.vlm.model.parameters()} == {torch.bfloat16}
    assert result.history[-1]["loss"] < result.history[0]["loss"]


@pytest.mark.parametrize("method", ["sparse_lora", "masked_finetune"])
def test_autocast_to_bfloat16(method):
    pruned, masks, dense = pruned_pair()
    result = repair(
        pruned, masks, dense, samples(8), RepairConfig(method=method, **FAST | {"precision": "bf16"})
    )
    assert result.vlm.model.config.get_text_config()._attn_implementation != "eager"
    assert "forward" not in vars(result.vlm.model)
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    assert {parameter.dtype for parameter in result.vlm.model.parameters()} == {torch.float32}


def test_gradient_checkpointing_changes_nothing():
    histories = []
    for checkpointing in (False, True):
        pruned, masks, dense = pruned_pair("llava")
        config = RepairConfig(gradient_checkpointing=checkpointing, **FAST)
        histories.append(repair(pruned, masks, dense, samples(8), config).history)
    for plain, checkpointed in zip(*histories, strict=True):
        assert plain["loss"] == pytest.approx(checkpointed["loss"], rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("reduction", "positions"), [("tokens", "supervised"), ("batch", "supervised"), ("batch", "all")]
)
def test_accumulation_is_the_same_as_one_large_batch(family, reduction, positions):
    histories = []
    for batch, accumulation in ((8, 1), (2, 4)):
        pruned, masks, dense = pruned_pair(family)
        options = FAST | {"batch_size": batch, "gradient_accumulation": accumulation, "steps": 3}
        config = RepairConfig(kd_reduction=reduction, kd_positions=positions, **options)
        for vlm in (pruned, dense):
            without_dropout(vlm.model)
        histories.append(repair(pruned, masks, dense, samples(24), config).history)
    for large, small in zip(*histories, strict=True):
        if positions == "all":  # padding differs with the batch, and this form counts it
            assert large["task_loss"] == pytest.approx(small["task_loss"], rel=0.2)
        else:
            assert large["loss"] == pytest.approx(small["loss"], rel=1e-4)
            assert large["grad_norm"] == pytest.approx(small["grad_norm"], rel=1e-3)


def test_ranks_and_learning_rates_by_tower():
    pruned, masks, dense = pruned_pair()
    frozen = {
        n: p.clone() for n, p in pruned.model.named_parameters() if n.removesuffix(".weight") not in masks
    }
    ranks = {"vision": 3, "language": 5}
    config = RepairConfig(
        ranks=ranks,
        tune=("vision", "language"),
        learning_rates={"vision": 1e-12},
        **FAST | {"min_learning_rate": 0},
    )
    before = state(pruned)
    result = repair(pruned, masks, dense, samples(8), config)
    anatomy = find_anatomy(result.vlm.model)
    expected = 0
    for tower, rank in ranks.items():
        for name in anatomy.linears(tower):
            layer = result.vlm.model.get_submodule(name)
            expected += rank * (layer.in_features + layer.out_features)
            moved = (layer.weight - before[f"{name}.weight"]).abs().max()
            assert moved < 1e-6 if tower == "vision" else moved > 1e-3
    assert result.trained == expected
    assert all(torch.equal(result.vlm.model.get_parameter(name), value) for name, value in frozen.items())


def test_a_tower_without_masks_gets_plain_lora():
    pruned, masks, dense = pruned_pair()
    before = state(pruned)
    result = repair(pruned, masks, dense, samples(8), RepairConfig(tune=("connector",), **FAST))
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    after = result.vlm.model.state_dict()
    assert all(torch.equal(after[f"{name}.weight"], before[f"{name}.weight"]) for name in masks)


@pytest.mark.parametrize("dense_weights", [False, True])
def test_masked_linear_masks_outputs_and_gradients(dense_weights):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 5))
    mask = torch.rand(5, 12) < 0.5
    original = net[0]
    if not dense_weights:
        original.weight.data *= mask
    x = torch.randn(3, 12, requires_grad=True)
    want = nn.functional.linear(x, original.weight * mask, original.bias)
    keys = list(net.state_dict())
    apply_masks(net, {"0": mask})
    assert list(net.state_dict()) == keys
    assert torch.equal(net(x), want)
    net[0].bypass_mask = True
    assert torch.equal(net(x), original(x))
    net[0].bypass_mask = False
    net(x).square().sum().backward()
    assert not net[0].weight.grad[~mask].any()
    assert net[0].weight.grad[mask].all()
    bake_masks(net)
    assert net[0] is original
    assert torch.equal(original.weight != 0, mask)
    assert not isinstance(net[0], MaskedLinear)


# -- what goes wrong ---


def test_a_failure_leaves_the_pruned_model_as_it_was():
    pruned, masks, dense = pruned_pair()
    before = state(pruned)
    broken = [*samples(8)[:-1], samples(1)[0].__class__(image="missing.png", prompt="what", target="it")]
    with pytest.raises(Exception, match="missing"):
        repair(pruned, masks, dense, broken, RepairConfig(**FAST))
    after = state(pruned)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(type(pruned.model.get_submodule(name)) is nn.Linear for name in masks)


def test_a_diverging_run_says_so():
    pruned, masks, dense = pruned_pair()
    options = FAST | {"learning_rate": 1e30, "max_grad_norm": 0}
    with pytest.raises(RunError, match="lower the learning rate"):
        repair(pruned, masks, dense, samples(8), RepairConfig(**options))


def test_wrong_use_is_one_sentence():
    pruned, masks, dense = pruned_pair()
    config = RepairConfig(**FAST)
    with pytest.raises(UsageError, match="no samples"):
        repair(pruned, masks, dense, [], config)
    with pytest.raises(UsageError, match="no masks"):
        repair(pruned, {}, dense, samples(4), config)
    with pytest.raises(UsageError, match="needs the dense model"):
        repair(pruned, masks, None, samples(4), config)
    with pytest.raises(UsageError, match="not of this model"):
        repair(dense, masks, dense, samples(4), config)
    name = next(iter(masks))
    with pytest.raises(UsageError, match="no layer"):
        repair(pruned, {name + "x": masks[name]}, dense, samples(4), config)
    other = TinyVlm(copy.deepcopy(dense.model.language_model), dense.processor)
    with pytest.raises(UsageError, match="that was pruned"):
        repair(pruned, masks, other, samples(4), config)
    with pytest.raises(ValueError, match="no rank"):
        RepairConfig(ranks={"vision": 4})


def test_merged_adapters_cannot_be_bypassed():
    net = nn.Sequential(nn.Linear(8, 4))
    model = get_peft_model(net, SparseLoraConfig(masks={"0": torch.ones(4, 8).bool()}, target_modules=["0"]))
    model.merge_adapter()
    with pytest.raises(UsageError, match="unmerge"), dense_teacher(model):
        pass


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate": -1.0},
        {"learning_rate": float("nan")},
        {"learning_rates": {"vision": -1.0}},
        {"learning_rates": {"vision": float("inf")}},
        {"epochs": float("inf")},
        {"epochs": 1e9},
        {"reconstruct_epochs": 10**9},
        {"reconstruct_rate": float("inf")},
        {"alpha": float("nan")},
        {"seed": 2**32},
        {"ranks": {"vision": -1, "connector": 2, "language": 2}},
        {"steps": 0},
    ],
)
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=r"greater|less|finite"):
        RepairConfig(**options)


def test_the_floor_of_the_cosine_follows_a_lower_rate():
    assert RepairConfig(learning_rate=5e-6).last_share == 1
    assert RepairConfig(learning_rate=1e-4).last_share == pytest.approx(0.1)


def test_a_rank_above_every_layers_size_is_refused_before_anything_is_done():
    pruned, masks, dense = pruned_pair()
    config = RepairConfig(ranks={"vision": 4, "connector": 2, "language": 100_000}, **FAST)
    with pytest.raises(UsageError, match="language tower has: give it at most 32"):
        repair(pruned, masks, dense, samples(4), config)


def test_a_dense_model_that_is_not_the_one_pruned_is_told():
    pruned, masks, dense = pruned_pair("llava")
    with torch.no_grad():
        dense.model.get_input_embeddings().weight.add_(1)
    with pytest.warns(UserWarning, match="embed_tokens.weight is not the pruned model's"):
        repair(pruned, masks, dense, samples(4), RepairConfig(warm_start=True, reconstruct_epochs=1, **FAST))


def test_a_dense_model_with_more_in_it_or_no_numbers_is_refused():
    vlm, masks, dense = pruned_pair("llava")
    dense.model.extra = torch.nn.Linear(2, 2)
    with pytest.raises(UsageError, match=r"2 weights that the pruned one lacks \(such as extra\.bias\)"):
        repair(vlm, masks, dense, samples(2), RepairConfig(steps=1, device="cpu"))
    del dense.model.extra
    with torch.no_grad():
        dense.model.get_input_embeddings().weight[0, 0] = torch.nan
    with pytest.raises(UsageError, match="holds NaN or infinity"):
        repair(vlm, masks, dense, samples(2), RepairConfig(steps=1, device="cpu"))


def test_a_step_that_compiles_late_is_no_measure():
    clock = training.Clock(48)
    clock.ends = [60, 60.2, 60.4, 85.6, 85.8, 86.0, 86.2]
    assert clock.seconds == pytest.approx(0.2)
