"""Repair: a pruned model learns back what pruning broke, with every zero left in its place."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn
from transformers import set_seed

from ressa.anatomy import find_anatomy
from ressa.data.batcher import Batcher
from ressa.data.sample import Sample
from ressa.errors import RunError, UsageError
from ressa.provenance import fingerprint
from ressa.repair.config import RepairConfig
from ressa.repair.sparse_lora import SparseLoraConfig, adapter_masks, load_adapter
from ressa.repair.student import discard_student, finish_student, make_student
from ressa.repair.teacher import dense_teacher, teacher_form
from ressa.repair.trainer import lean_forward
from ressa.repair.training import train
from ressa.repair.weights import Masks, adopt_dense_weights, check_masks, restored, sparsity
from ressa.sparsity.mask import pack_mask

if TYPE_CHECKING:
    from ressa.checkpoint import Vlm

__all__ = [
    "RepairConfig",
    "RepairResult",
    "SparseLoraConfig",
    "adapter_masks",
    "dense_teacher",
    "load_adapter",
    "repair",
]


@dataclass(frozen=True)
class RepairResult:
    """What `repair` made.

    vlm: the repaired model, of plain layers. history: one entry a step with loss, task_loss, kd_loss,
    learning_rate, grad_norm. trained: number of trainable parameters. sparsity: share of zeros of the masked
    layers, before and after. teacher: "shared", "separate" or "none".
    """

    vlm: "Vlm"
    history: list[dict[str, float]]
    seconds: float
    trained: int
    sparsity: tuple[float, float]
    teacher: str


def repair(
    pruned: "Vlm",
    masks: Mapping[str, Tensor],
    dense: "Vlm | Mapping[str, Tensor] | None",
    samples: Sequence[Sample],
    config: RepairConfig | None = None,
    *,
    work_dir: Path | None = None,
) -> RepairResult:
    """Train a pruned model to answer like the dense one, and merge what it learned into its weights.

    Args:
        pruned: the pruned model; it becomes the repaired one (the result holds the same object).
        masks: layer name → bool (out, in), True = kept: what `prune` returned or the result folder holds.
        dense: the model before pruning, left as it is; or its parameters by name, read one at a time (one
            copy of the weights is then in memory); None if the objective needs no teacher.
        samples: image, prompt and target each.
        work_dir: folder for checkpoints; a run that was cut short goes on from the last one.

    Raises UsageError when the masks are not the model's or the teacher cannot be had, RunError when the loss
    diverges or a zero moved. After an error the pruned model is as it was (but for masked fine-tuning).
    """
    started = time.perf_counter()
    config = config or RepairConfig()
    if not samples:
        raise UsageError("There are no samples to repair with: give a data set with at least one.")
    model: nn.Module = pruned.model
    check_masks(model, masks)
    anatomy = find_anatomy(model)
    batcher = Batcher(pruned.processor, pruned.model.config)
    weights = dense if dense is None or isinstance(dense, Mapping) else dense.model
    form = teacher_form(model, masks, weights, config)
    identity = _identity(masks, samples, config, form) if work_dir else None
    before = sparsity(model, masks)
    with restored(model), lean_forward(model):
        set_seed(config.seed)
        if form == "shared" and weights is not None:
            adopt_dense_weights(model, masks, weights)
        if config.method == "masked_finetune":
            model.float()  # half-precision weights would lose most updates
        student = make_student(model, masks, anatomy, config, dense_weights=form == "shared")
        trained = sum(p.numel() for p in student.parameters() if p.requires_grad)
        teacher = student if form == "shared" else weights if form == "separate" else None
        try:
            history = train(
                student,
                cast(nn.Module | None, teacher),
                anatomy,
                samples,
                batcher,
                config,
                work_dir=work_dir,
                identity=identity,
            )
        except BaseException:
            discard_student(student, masks)
            raise
        finish_student(student, masks, config)
    if config.method != "lora":
        check_masks(model, masks, error=RunError)
    spread = (before, sparsity(model, masks))
    return RepairResult(pruned, history, time.perf_counter() - started, trained, spread, form)


def _identity(masks: Masks, samples: Sequence[Sample], config: RepairConfig, form: str) -> dict[str, Any]:
    """What decides the result of a repair, as JSON-able data."""
    packed = (part for name in sorted(masks) for part in (name, pack_mask(masks[name]).numpy().tobytes()))
    texts = (f"{sample.id}\n{sample.prompt}\n{sample.target}" for sample in samples)
    return {
        "config": config.model_dump(mode="json", exclude={"device", "workers", "checkpoints"}),
        "teacher": form,
        "masks": fingerprint(packed),
        "samples": fingerprint(texts),
    }
