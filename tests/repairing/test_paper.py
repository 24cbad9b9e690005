"""A repair with the paper's settings is, step by step, what its formulas say: worked out here by hand.

The formulas are those of RESSA's code (docs/paper.md): cross-entropy of the target's tokens; a KL of all positions,
summed, divided by the batch, without T²; SparseLoRA; AdamW with decay; LAVIS's learning rate.
"""

import math

import pytest
import torch
from repairing.tiny import TinyVlm, pruned_pair, samples, without_dropout
from torch.func import functional_call
from transformers import set_seed

from ressa.anatomy import find_anatomy
from ressa.recipe import make_recipe
from ressa.repairing import repair, training
from ressa.repairing.losses import LogitDistillation
from ressa.repairing.schedule import EpochCosine
from ressa.repairing.student import make_student
from ressa.repairing.weights import adopt_dense_weights

FIRST, PEAK, LAST, WARMUP = 1e-6, 1e-4, 1e-5, 1000


@pytest.mark.parametrize(("steps", "last"), [(390, 3.951e-5), (781, 7.822e-5), (1500, 1e-4)])
def test_in_one_epoch_the_rate_only_rises(steps, last):
    """25,000 samples on the scripts' two GPUs, 32 or 16 each: FLAN-T5 ends at 40 % of the peak, Vicuna at 78 %."""
    share = EpochCosine(FIRST / PEAK, LAST / PEAK, WARMUP, 1, steps)
    for step in range(steps):
        lavis = min(PEAK, FIRST + (PEAK - FIRST) * step / max(WARMUP, 1))
        assert PEAK * share(step) == pytest.approx(lavis, rel=1e-12)
    assert PEAK * share(0) == pytest.approx(1e-6)
    assert PEAK * share(steps - 1) == pytest.approx(last, rel=1e-3)


def test_later_epochs_stand_on_a_cosine_each_with_one_rate():
    share = EpochCosine(FIRST / PEAK, LAST / PEAK, 5, 4, 10)
    rates = [PEAK * share(step) for step in range(40)]
    assert rates[5:10] == pytest.approx([PEAK] * 5)
    for epoch in (1, 2, 3):
        lavis = (PEAK - LAST) * 0.5 * (1 + math.cos(math.pi * epoch / 4)) + LAST
        assert rates[10 * epoch : 10 * epoch + 10] == pytest.approx([lavis] * 10)


def test_no_warm_up_is_one_step_of_it():
    """What the scripts run: train.py overwrites the 1,000 steps of the configuration with its default of 0."""
    none, one = (EpochCosine(FIRST / PEAK, LAST / PEAK, steps, 1, 100) for steps in (0, 1))
    assert [none(step) for step in range(100)] == [one(step) for step in range(100)]
    assert PEAK * none(0) == pytest.approx(1e-6)
    assert none(1) == none(99) == 1


def test_the_papers_divergence_is_not_scaled_and_counts_every_position():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(6, 7, generator=generator) for _ in range(2))
    targets = torch.tensor([-100, 3, -100, 0, 1, -100])
    p, q = torch.softmax(teacher / 2, -1), torch.softmax(student / 2, -1)
    whole = (p * (p / q).log()).sum()
    paper = LogitDistillation(2.0, "batch", positions="all", scaled=False)
    torch.testing.assert_close(paper(student, teacher, targets, count=3), whole / 3)
    ours = LogitDistillation(2.0, "batch", positions="all")
    torch.testing.assert_close(ours(student, teacher, targets, count=3), 4 * whole / 3)


def recipe(**given):
    values = {
        "command": "repair",
        "preset": "paper",
        "model": "p",
        "dense": "d",
        "output": "o",
        "device": "cpu",
    }
    return make_recipe({**values, **given})


def test_the_preset_resolves_to_the_papers_settings():
    config = recipe().config()
    assert (config.method, config.objective, config.tune) == (
        "sparse_lora",
        "both",
        ("vision", "connector", "language"),
    )
    assert config.ranks == {"vision": 4, "connector": 2, "language": 8}
    assert (config.alpha, config.kd_weight, config.temperature) == (16, 0.1, 1)
    assert (config.kd_positions, config.kd_reduction, config.kd_scaled) == ("all", "batch", False)
    assert (config.learning_rate, config.warmup_learning_rate, config.min_learning_rate) == (1e-4, 1e-6, 1e-5)
    assert (config.schedule, config.warmup_steps, config.weight_decay) == ("epoch_cosine", 1000, 0.05)
    assert (config.max_grad_norm, config.held_back, config.warm_start) == (0, 0, False)
    assert (recipe().batch_size, recipe(preset="paper-vicuna").batch_size) == (32, 16)
    assert (recipe().samples, recipe().epochs, recipe().mixture) == (25_000, 1, "captions")


@pytest.mark.parametrize("family", ["instructblip", "llava"])
def test_its_steps_are_those_of_the_formulas(family, monkeypatch):
    pruned, masks, dense = pruned_pair(family)
    for vlm in (pruned, dense):
        without_dropout(vlm.model)
    peak, first, decay, count = 1e-2, 1e-3, 0.05, 12
    chosen = recipe(
        batch_size=4,
        learning_rate=peak,
        temperature=2.0,
        options={"warmup_steps": 2, "warmup_learning_rate": first, "precision": "fp32"},
    ).config()
    start = initial_adapters(family, masks, chosen)

    seen: list[dict[str, torch.Tensor]] = []
    plain = training.Collator.__call__

    def noted(self, items):
        seen.append(plain(self, items))
        return dict(seen[-1])

    monkeypatch.setattr(training.Collator, "__call__", noted)
    result = repair(pruned, masks, dense, samples(count), chosen)
    assert len(result.history) == len(seen) == 3  # one epoch, nothing held back

    reference, losses, rates = by_hand(dense, masks, start, seen, peak=peak, first=first, decay=decay)
    for entry, want, rate in zip(result.history, losses, rates, strict=True):
        assert entry["task_loss"] == pytest.approx(want[0], rel=1e-4)
        assert entry["kd_loss"] == pytest.approx(want[1], rel=1e-3)
        assert entry["loss"] == pytest.approx(0.9 * want[0] + 0.1 * want[1], rel=1e-4)
        assert entry["learning_rate"] == pytest.approx(rate, rel=1e-6)
    moved = 0.0
    for name, weight in reference.items():
        before = dense.model.get_submodule(name).weight * masks.get(name, torch.tensor(True))
        torch.testing.assert_close(result.vlm.model.get_submodule(name).weight, weight, rtol=1e-4, atol=2e-6)
        moved = max(moved, (weight - before).abs().max().item())
    assert moved > 1e-3


def initial_adapters(family, masks, config):
    """Layer → (A, B, α / r) as PEFT draws them with the repair's seed."""
    pruned, _, dense = pruned_pair(family)
    set_seed(config.seed)
    adopt_dense_weights(pruned.model, masks, dense.model)
    anatomy = find_anatomy(pruned.model)
    student = make_student(pruned.model, masks, anatomy, config, dense_weights=True)
    found = {}
    for name, module in student.named_modules():
        if hasattr(module, "lora_A"):
            a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
            assert not b.any()
            layer = name.removeprefix("base_model.model.")
            rank = config.rank(anatomy.tower_of(layer))
            assert a.shape[0] == rank
            found[layer] = (a.detach().clone(), b.detach().clone(), config.alpha / rank)
    assert set(found) == set(anatomy.linears())
    return found


def by_hand(dense: TinyVlm, masks, start, batches, *, peak, first, decay):
    """Weights after one step a batch, (task, KL) and the learning rate of each step."""
    model = dense.model
    frozen = {name: p.detach() for name, p in model.named_parameters()}
    weights = {name: [a.clone(), b.clone()] for name, (a, b, _) in start.items()}
    moments = {
        name: [[torch.zeros_like(w), torch.zeros_like(w)] for w in pair] for name, pair in weights.items()
    }

    def merged(name):
        a, b = weights[name]
        dense_weight, mask = frozen[f"{name}.weight"], masks.get(name)
        update = start[name][2] * (b @ a)
        return dense_weight + update if mask is None else (dense_weight + update) * mask

    losses, rates = [], []
    for step, batch in enumerate(batches):
        for pair in weights.values():
            for w in pair:
                w.requires_grad_(True)
        labels = batch["labels"]
        student = functional_call(
            model, {f"{name}.weight": merged(name) for name in weights}, kwargs=batch
        ).logits
        with torch.no_grad():
            teacher = functional_call(model, frozen, kwargs=batch).logits
        log_q = torch.log_softmax(student, -1)
        if labels.shape[1] == batch["input_ids"].shape[1]:  # decoder-only: each position says the next token
            rows, targets = log_q[:, :-1][labels[:, 1:] != -100], labels[:, 1:][labels[:, 1:] != -100]
        else:
            rows, targets = log_q[labels != -100], labels[labels != -100]
        task = -rows[torch.arange(len(targets)), targets].mean()
        p, q = torch.softmax(teacher / 2, -1), torch.softmax(student / 2, -1)
        kl = (p * (p.log() - q.log())).sum() / len(labels)
        flat = [w for pair in weights.values() for w in pair]
        gradients = iter(torch.autograd.grad(0.9 * task + 0.1 * kl, flat, allow_unused=True))
        rate = min(peak, first + (peak - first) * step / 2)
        with torch.no_grad():
            for name, pair in weights.items():
                for place, w in enumerate(pair):
                    gradient = next(gradients)
                    if gradient is None:  # LLaVA does not use its last vision block
                        continue
                    mean, square = moments[name][place]
                    mean.mul_(0.9).add_(0.1 * gradient)
                    square.mul_(0.999).add_(0.001 * gradient**2)
                    step_size = (mean / (1 - 0.9 ** (step + 1))) / (
                        (square / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
                    )
                    pair[place] = (w * (1 - rate * decay) - rate * step_size).detach()
        losses.append((task.item(), kl.item()))
        rates.append(rate)
    with torch.no_grad():
        return {name: merged(name).detach() for name in weights}, losses, rates
