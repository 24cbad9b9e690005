"""The whole of a repair: reconstruct, train, merge; then the zeros are where they were."""

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn
from transformers import set_seed

from ressa.anatomy import Anatomy, find_anatomy
from ressa.data.sample import Sample
from ressa.errors import RunError, UsageError
from ressa.fast_dtype import means_bf16
from ressa.fused import on_plain_linears, splitted
from ressa.processes import are_several, are_sharded
from ressa.provenance import fingerprint
from ressa.repairing.cached import CachedLogits
from ressa.repairing.checkpoints import claim
from ressa.repairing.config import ASIDE, RepairConfig
from ressa.repairing.forward import Forward, lean_forward
from ressa.repairing.held_back import HeldBack, hold_back, hold_back_text
from ressa.repairing.objective import Objective
from ressa.repairing.objectives import find_objective, within_reach
from ressa.repairing.reconstruction import reconstruct, reconstruction_batches
from ressa.repairing.student import check_ranks, discard_student, finish_student, make_student
from ressa.repairing.teacher import teacher_form
from ressa.repairing.training import Samples, train, training_device
from ressa.repairing.weights import (
    DenseWeights,
    Masks,
    adopt_dense_weights,
    at_hand,
    check_dense,
    check_masks,
    restored,
    sparsity,
)
from ressa.runtime.model import unpack_model
from ressa.sparsity.mask import as_packed
from ressa.stopwatch import Stopwatch

if TYPE_CHECKING:
    from ressa.checkpoint import Vlm


@dataclass(frozen=True)
class RepairResult:
    """What `repair` made.

    vlm: the repaired model, of plain layers. history: one entry a step with loss, task_loss, kd_loss,
    learning_rate, grad_norm. trained: number of trainable parameters. sparsity: share of zeros of the masked
    layers, before and after. teacher: "shared", "separate", "cached" or "none". blocks: what reconstruction did, one
    entry a block with its error before and after (`loss`). objective: "words" or "pairs", or "none" where only blocks
    were reconstructed. held_back: scores of the dense, the pruned and the
    repaired model on samples that were not trained on (`HeldBack.report`), empty where samples were too few.
    end: what the targets were taught to end with, and who says so; empty where the family has no such token.
    spent: seconds of all of it by what they were spent on.
    """

    vlm: "Vlm"
    history: list[dict[str, float]]
    seconds: float
    trained: int
    sparsity: tuple[float, float]
    teacher: str
    blocks: list[dict[str, Any]] = field(default_factory=list)
    held_back: dict[str, Any] = field(default_factory=dict)
    end: str = ""
    objective: str = "words"
    spent: dict[str, float] = field(default_factory=dict)


@on_plain_linears
def repair(
    pruned: "Vlm",
    masks: Mapping[str, Tensor],
    dense: "Vlm | Mapping[str, Tensor] | CachedLogits | None",
    samples: Sequence[Sample],
    config: RepairConfig | None = None,
    *,
    work_dir: Path | None = None,
) -> RepairResult:
    """Train a pruned model to answer like the dense one, and merge what it learned into its weights.

    A dual encoder learns to tell pairs and to embed as the dense one does. A model of neither kind, and one for whose
    pictures there are no texts, has its blocks reconstructed instead, which is said.

    Args:
        pruned: the pruned model; it becomes the repaired one (the result holds the same object).
        masks: layer name → bool (out, in), True = kept: what `prune` returned or the result folder holds.
        dense: the model before pruning, left as it is; or its parameters by name, read one at a time (one
            copy of the weights is then in memory); or its logits from `cache_logits`; None if the objective
            needs no teacher.
        samples: image, prompt and target each; a dual encoder's prompts are not looked at.
        work_dir: folder for checkpoints; a run that was cut short goes on from the last one.

    Raises UsageError when the masks are not the model's or the teacher cannot be had, RunError when the loss
    diverges or a zero moved. After an error in training the pruned model is as it was before (but for masked
    fine-tuning, which trains its own weights).
    """
    if not samples:
        raise UsageError("There are no samples to repair with: give a data set with at least one.")
    config = within_reach(config or RepairConfig(), pruned, samples)
    if config.minutes is not None and are_several():
        raise UsageError("How many steps fit into minutes is not measured in several processes: give steps.")
    if config.compile and are_sharded() and training_device(config).type == "cuda":
        raise UsageError("Blocks of a sharded model are not compiled: leave the option compile out.")
    if not masks:
        raise UsageError("There are no masks, so nothing is pruned: prune the model before repairing it.")
    model: nn.Module = pruned.model
    unpack_model(model)
    masks = as_packed(masks)
    check_masks(model, masks)
    anatomy = find_anatomy(model)
    check_ranks(model, anatomy, config)
    weights = dense if dense is None or isinstance(dense, Mapping | CachedLogits) else dense.model
    with splitted(weights) if isinstance(weights, nn.Module) else nullcontext():
        return _repair(pruned, anatomy, masks, weights, samples, config, work_dir)


def _repair(
    pruned: "Vlm",
    anatomy: Anatomy,
    masks: Masks,
    weights: DenseWeights | CachedLogits | None,
    samples: Sequence[Sample],
    config: RepairConfig,
    work_dir: Path | None,
) -> RepairResult:
    started, watch = time.perf_counter(), Stopwatch()
    model: nn.Module = pruned.model
    if isinstance(weights, nn.Module | Mapping):
        check_dense(model, weights, set(anatomy.linears()))
    form = teacher_form(model, masks, weights, config)
    if isinstance(weights, CachedLogits):
        weights.check(samples, config.temperature)
    if work_dir is not None:
        claim(work_dir, _identity(masks, samples, config, form))
    before = sparsity(model, masks)
    blocks: list[dict[str, Any]] = []
    history: list[dict[str, float]] = []
    trained = 0
    held = hold_back(samples, config.held_back, config.seed)
    texts = hold_back_text(samples, config.held_back, config.seed)
    left_out = {*held, *chain.from_iterable(texts.values())}
    numbers = [number for number in range(len(samples)) if number not in left_out]
    kept = [samples[number] for number in numbers]
    asked = [sample for sample in kept if not sample.plain]
    device = training_device(config)
    forward = Forward(device, means_bf16(config.precision, device, model))
    with restored(model), at_hand(model, weights, device):
        judge = weights if isinstance(weights, nn.Module) else model
        objective = find_objective(pruned, judge, weights, asked, forward, config, anatomy)
        tested = HeldBack(
            [samples[number] for number in held],
            asked,
            objective,
            forward,
            config.batch_size,
            [samples[copies[0]] for copies in texts.values()],
        )
        with watch.on("judge"):
            if isinstance(weights, nn.Module):
                tested.examine("dense", weights)
            tested.examine("pruned", model)
        set_seed(config.seed)
        if config.reconstructs:
            with watch.on("reconstruct"):
                batches = reconstruction_batches(objective.batcher, kept, config)
                blocks = reconstruct(
                    model,
                    cast(nn.Module, weights),
                    masks,
                    anatomy,
                    batches,
                    config,
                    device=device,
                    work_dir=work_dir,
                )
        if config.method != "reconstruct":
            teacher = None if form == "none" else weights
            with watch.on("train"):
                history, trained = _train(
                    model,
                    masks,
                    anatomy,
                    Samples(samples, numbers, crops=config.seed if config.crops else None),
                    objective,
                    config,
                    work_dir,
                    teacher,
                    form == "shared",
                )
        with watch.on("judge"):
            tested.examine("repaired", model)
    if config.keeps_zeros:
        check_masks(model, masks, error=RunError)
    return RepairResult(
        vlm=pruned,
        history=history,
        seconds=time.perf_counter() - started,
        trained=trained,
        sparsity=(before, sparsity(model, masks)),
        teacher=form,
        blocks=blocks,
        held_back=tested.report,
        end=objective.end,
        objective="none" if config.method == "reconstruct" else objective.name,
        spent=watch.rounded(),
    )


def _train(
    model: nn.Module,
    masks: Masks,
    anatomy: Anatomy,
    samples: Samples,
    objective: Objective,
    config: RepairConfig,
    work_dir: Path | None,
    dense: DenseWeights | CachedLogits | None,
    shared: bool,
) -> tuple[list[dict[str, float]], int]:
    """Train as a whole and merge; the loss curve and the number of trained parameters."""
    with lean_forward(model):
        student = model
        try:
            if shared and isinstance(dense, nn.Module | Mapping):
                adopt_dense_weights(model, masks, dense)
            if config.method == "masked_finetune":
                model.float()  # half-precision weights would lose most updates
            student = make_student(model, masks, anatomy, config, dense_weights=shared)
            trained = sum(p.numel() for p in student.parameters() if p.requires_grad)
            teacher = student if shared else cast(nn.Module | CachedLogits | None, dense)
            history = train(student, teacher, anatomy, samples, objective, config, work_dir=work_dir)
        except BaseException:
            discard_student(student, masks)
            raise
        finish_student(student, masks, config)
    return history, trained


def _identity(masks: Masks, samples: Sequence[Sample], config: RepairConfig, form: str) -> dict[str, Any]:
    """What decides the result of a repair, as JSON-able data."""
    at_rest = as_packed(masks)
    packed = (part for name in sorted(at_rest) for part in (name, at_rest.packed(name).numpy().tobytes()))
    texts = (
        "\n".join([sample.id, *(f"{asked}\n{said}" for asked, said in sample.turns)]) for sample in samples
    )
    return {
        "config": config.model_dump(mode="json", exclude=ASIDE),
        "teacher": form,
        "masks": fingerprint(packed),
        "samples": fingerprint(texts),
    }
