"""Block-wise reconstruction brings the blocks nearer to the dense ones, without labels."""

import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from repairing.tiny import logits, pruned_pair, samples

from ressa.anatomy import find_anatomy
from ressa.data.batcher import Batcher
from ressa.errors import RunError
from ressa.repairing import RepairConfig, fitting, reconstruct, reconstruction, repair
from ressa.repairing.fitting import divided, relative_rate
from ressa.repairing.reconstruction import batch_size, reconstruction_batches

OPTIONS = {
    "reconstruct_epochs": 5,
    "reconstruct_rate": 1e-2,
    "reconstruct_batch_size": 4,
    "batch_size": 4,
    "device": "cpu",
}
CONFIG = RepairConfig(method="reconstruct", **OPTIONS)


@pytest.mark.parametrize("family", ["instructblip", "llava"])
def test_every_block_comes_nearer_to_the_dense_one(family):
    pruned, masks, dense = pruned_pair(family)
    batch = Batcher(dense.processor, dense.model.config).training(samples(4))
    want = logits(dense, batch)
    distance = (logits(pruned, batch) - want).square().mean()
    result = repair(pruned, masks, dense, samples(8), CONFIG)
    anatomy = find_anatomy(result.vlm.model)
    used = [entry["block"] for entry in result.blocks]
    assert set(used) <= {block.name for block in anatomy.blocks()}
    assert len(used) >= len(anatomy.blocks()) - 1  # LLaVA does not use its last vision block
    assert all(entry["loss"] <= entry["before"] for entry in result.blocks)
    language = [entry for entry in result.blocks if "language_model" in entry["block"]]
    assert all(entry["loss"] < 0.4 * entry["before"] for entry in language)
    assert (logits(result.vlm, batch) - want).square().mean() < 0.5 * distance
    for name, mask in masks.items():
        assert not result.vlm.model.get_submodule(name).weight[~mask].any()
    assert all(parameter.requires_grad for parameter in result.vlm.model.parameters())


def test_labels_of_a_decoder_only_model_do_not_matter():
    weights = []
    for target in ("red", "two dogs"):
        pruned, masks, dense = pruned_pair("llava")
        batcher = Batcher(dense.processor, dense.model.config)
        batch = batcher.training(samples(4)) | {}
        batch["labels"] = batch["labels"].clamp_min(-100) if target == "red" else batch["labels"] * 0 + 5
        reconstruct(pruned.model, dense.model, masks, find_anatomy(pruned.model), [batch], CONFIG)
        weights.append([parameter.clone() for parameter in pruned.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_only_the_tuned_towers_change():
    pruned, masks, dense = pruned_pair()
    anatomy = find_anatomy(pruned.model)
    before = {name: weight.clone() for name, weight in pruned.model.state_dict().items()}
    repair(pruned, masks, dense, samples(4), CONFIG.model_copy(update={"tune": ("language",)}))
    changed = {
        name for name, weight in pruned.model.state_dict().items() if not torch.equal(weight, before[name])
    }
    assert changed == {f"{name}.weight" for name in anatomy.linears("language")}


def test_bfloat16_weights_are_trained_in_float32_and_stay_bfloat16():
    pruned, masks, dense = pruned_pair("llava", dtype=torch.bfloat16)
    result = repair(pruned, masks, dense, samples(4), CONFIG)
    assert {parameter.dtype for parameter in result.vlm.model.parameters()} == {torch.bfloat16}
    assert sum(entry["loss"] for entry in result.blocks) < sum(entry["before"] for entry in result.blocks)


def test_as_a_warm_start_it_comes_before_training():
    options = OPTIONS | {"learning_rate": 1e-2, "min_learning_rate": 1e-3, "steps": 4}
    losses = {}
    for warm in (False, True):
        pruned, masks, dense = pruned_pair("llava")
        config = RepairConfig(warm_start=warm, objective="kd", **options)
        result = repair(pruned, masks, dense, samples(8), config)
        losses[warm] = result.history[0]["loss"]
        assert bool(result.blocks) == warm
        assert result.teacher == ("separate" if warm else "shared")
    assert losses[True] < 0.8 * losses[False]


def test_a_run_that_was_cut_short_skips_finished_blocks(tmp_path, monkeypatch):
    module = sys.modules["ressa.repairing.reconstruction"]
    fit, done = module.fit, []

    def failing(model, block, *rest):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(block)
        return fit(model, block, *rest)

    straight = repair(*pruned_pair(), samples(4), CONFIG)
    monkeypatch.setattr(module, "fit", failing)
    with pytest.raises(KeyboardInterrupt):
        repair(*pruned_pair(), samples(4), CONFIG, work_dir=tmp_path)
    monkeypatch.setattr(module, "fit", fit)
    resumed = repair(*pruned_pair(), samples(4), CONFIG, work_dir=tmp_path)
    assert resumed.blocks == straight.blocks
    for ours, theirs in zip(resumed.vlm.model.parameters(), straight.vlm.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@given(st.integers(1, 200), st.floats(0, 0.5))
def test_what_is_held_out_is_learned_from_by_none(count, share):
    learned, judged = divided(count, share)
    if int(count * share) == 0:
        assert learned == judged == list(range(count))
    else:
        assert not set(learned) & set(judged)
        assert sorted([*learned, *judged]) == list(range(count))
        assert len(judged) == int(count * share)


def test_the_epoch_that_is_best_on_what_is_held_out_is_kept(monkeypatch):
    """The learning rate is raised in the middle, so that the last epochs are not the best."""
    options = {**OPTIONS, "reconstruct_epochs": 10, "reconstruct_batch_size": 2}
    config = RepairConfig(method="reconstruct", reconstruct_held_out=0.25, tune=("language",), **options)
    pruned, masks, dense = pruned_pair("llava")
    batches = reconstruction_batches(Batcher(dense.processor, dense.model.config), samples(16), config)
    measure, measured = fitting._mean_error, []

    def recorded(block, examples, numbers, bf16):
        measured.append(measure(block, examples, numbers, bf16))
        again.append(lambda: measure(block, examples, numbers, bf16))
        return measured[-1]

    monkeypatch.setattr(fitting, "_mean_error", recorded)
    monkeypatch.setattr(fitting, "_cosine", lambda done: 1 if done < 0.5 else 50)
    fit, errors, again = fitting.fit, [], []

    def fitted(model, block, *arguments):
        measured.clear()
        found = fit(model, block, *arguments)
        assert len(measured) == 1 + config.reconstruct_epochs
        assert found == (measured[0], min(measured))
        assert again[-1]() == pytest.approx(min(measured), rel=1e-5), "its weights are those of that epoch"
        errors.append(list(measured))
        return found

    monkeypatch.setattr(reconstruction, "fit", fitted)
    reconstruct(pruned.model, dense.model, masks, find_anatomy(pruned.model), batches, config)
    assert all(each[0] > min(each) < each[-1] for each in errors)


def test_divergence_is_one_sentence():
    pruned, masks, dense = pruned_pair()
    config = CONFIG.model_copy(update={"reconstruct_rate": 1e30})
    with pytest.raises(RunError, match="reconstruct_rate"):
        repair(pruned, masks, dense, samples(4), config)


def test_samples_are_as_many_as_their_tokens_allow():
    _, _, dense = pruned_pair("llava")
    batcher = Batcher(dense.processor, dense.model.config)
    asked = samples(10)
    each = [int(batcher.training([sample])["attention_mask"].sum()) for sample in asked]
    config = RepairConfig(reconstruct_batch_size=2, reconstruct_tokens=sum(each[:4]))
    assert [len(batch["input_ids"]) for batch in reconstruction_batches(batcher, asked, config)] == [2, 2]
    few = RepairConfig(reconstruct_batch_size=2, reconstruct_samples=3)
    assert [len(batch["input_ids"]) for batch in reconstruction_batches(batcher, asked, few)] == [2, 1]
    assert len(reconstruction_batches(batcher, asked, RepairConfig(reconstruct_tokens=1))) == 1


def test_zeros_stay_zero_and_other_weights_decay():
    pruned, masks, dense = pruned_pair("llava")
    repair(pruned, masks, dense, samples(4), CONFIG.model_copy(update={"weight_decay": 0.5}))
    for name, mask in masks.items():
        assert torch.equal(pruned.model.get_submodule(name).weight != 0, mask)


@pytest.mark.parametrize(("width", "size"), [(64, 1.0), (1024, 1.0), (1024, 0.02)])
def test_no_step_at_a_layers_own_rate_changes_an_output_by_more_than_half(width, size):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(512, width, generator=generator) * size
    weight[:, ::2] = 0
    x = torch.randn(4096, width, generator=generator)
    step = relative_rate(weight) * torch.ones_like(weight[:, 1::2])  # the worst that signs can do
    change = x[:, 1::2].abs() @ step.T
    output = x[:, 1::2] @ weight[:, 1::2].T
    assert change.square().mean().sqrt() < 0.51 * output.square().mean().sqrt()


def test_what_a_tower_will_cost_is_said_before_most_of_it_is_paid(capsys):
    pruned, masks, dense = pruned_pair("llava")
    repair(pruned, masks, dense, samples(8), CONFIG)
    said = capsys.readouterr().err
    assert "Reconstructing 2 blocks of the language tower: 8 samples, 5 epochs" in said


@pytest.mark.parametrize(
    ("samples", "epochs", "size"), [(1024, 10, 32), (512, 2, 8), (128, 10, 10), (4, 1, 8), (10**6, 1, 32)]
)
def test_little_data_is_learnt_in_smaller_steps(samples, epochs, size):
    assert batch_size(samples, epochs) == size
