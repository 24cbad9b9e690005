"""The network that a repair trains, for each method, and the plain pruned model that it becomes again."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from ressa.anatomy import Anatomy
from ressa.errors import UsageError
from ressa.repairing.config import RepairConfig
from ressa.repairing.masked_linear import apply_masks, bake_masks
from ressa.repairing.sparse_lora import SparseLoraConfig
from ressa.repairing.weights import Masks, mask_weights, weight_of


def check_ranks(model: nn.Module, anatomy: Anatomy, config: RepairConfig) -> None:
    """Raises UsageError for a rank that no layer of its tower has: it would cost memory and learn nothing."""
    if config.method not in ("sparse_lora", "lora", "lora_remask"):
        return
    for tower in config.tune:
        layers = anatomy.linears(tower) if tower in anatomy.towers else ()
        most = max((min(weight_of(model, name).shape) for name in layers), default=config.rank(tower))
        if config.rank(tower) > most:
            raise UsageError(
                f"A rank of {config.rank(tower)} is more than any layer of the {tower} tower has: "
                f"give it at most {most}."
            )


def make_student(
    model: nn.Module, masks: Masks, anatomy: Anatomy, config: RepairConfig, *, dense_weights: bool
) -> nn.Module:
    """Turn a model into the network to train; `model` itself is changed.

    dense_weights: the masked layers hold dense weights (shared with the teacher), so that those without a
    masked adapter must be masked as they run. Trainable parameters are those that require gradients.
    """
    tuned = {tower: anatomy.linears(tower) for tower in config.tune if tower in anatomy.towers}
    names = [name for layers in tuned.values() for name in layers]
    if not names:
        raise UsageError(f"The model has no layers in {', '.join(config.tune)}: choose other towers to tune.")
    adapted = {name: mask for name, mask in masks.items() if name in set(names)}
    if config.method == "masked_finetune":
        apply_masks(model, masks if dense_weights else adapted)
        model.requires_grad_(False)
        for name in names:
            weight_of(model, name).requires_grad_(True)
        return model
    masked_adapters = config.method == "sparse_lora" and bool(adapted)
    if dense_weights:
        rest = {name: mask for name, mask in masks.items() if name not in adapted}
        apply_masks(model, rest if masked_adapters else masks)
    options = {
        "target_modules": names,
        "r": max(config.rank(tower) for tower in tuned),
        # One pattern a tower: PEFT tries every pattern on every layer.
        "rank_pattern": {
            f"^(?:{'|'.join(re.escape(name) for name in layers)})": config.rank(tower)
            for tower, layers in tuned.items()
        },
        "lora_alpha": config.alpha,
    }
    adapter = LoraConfig(**options)  # type: ignore[arg-type]
    if masked_adapters:
        unmasked = [name for name in names if name not in adapted]
        adapter = SparseLoraConfig(masks=adapted, unmasked_modules=unmasked, **options)  # type: ignore[arg-type]
    with warnings.catch_warnings(), _targets_as_named(model), _embeddings_or_none(model):
        # PEFT asks transformers by a name that is to go.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return get_peft_model(model, adapter)  # type: ignore[arg-type, return-value]


@contextmanager
def _targets_as_named(model: nn.Module) -> Iterator[None]:
    """PEFT adapts the layers that are named.

    For model types with fused experts it would take every gate, up and down projection for theirs, dense ones too
    (GLM-4V), and wrap parameters in place of layers, which no mask reaches. It tells them by the type alone.
    """
    config: Any = getattr(model, "config", None)
    known = getattr(config, "model_type", None)
    try:
        if known is not None:
            config.model_type = "plain"
        yield
    finally:
        if known is not None:
            config.model_type = known


@contextmanager
def _embeddings_or_none(model: nn.Module) -> Iterator[None]:
    """PEFT asks for the input embeddings, to find what is tied to them; a model that cannot tell (PP-FormulaNet) has
    none for the time. What is tied is not adapted anyway: the towers hold no embeddings."""
    asked: Any = getattr(model, "get_input_embeddings", None)
    try:
        if asked is not None:
            asked()
    except NotImplementedError:
        model.__dict__["get_input_embeddings"] = nn.Module
    try:
        yield
    finally:
        model.__dict__.pop("get_input_embeddings", None)


def finish_student(student: nn.Module, masks: Masks, config: RepairConfig) -> nn.Module:
    """Merge what was learned: the model that `make_student` was given, of plain layers, with its new weights.

    Its masked layers have zeros exactly where their masks are off, except after the method "lora".
    """
    model = student
    if isinstance(student, PeftModel):
        if config.method != "sparse_lora":
            bake_masks(student)  # before merging: the update of plain LoRA goes on top of the pruned weights
        model = student.merge_and_unload()
    bake_masks(model)
    _forget_peft(model)
    if config.method == "lora_remask":
        mask_weights(model, masks)
    return model


def discard_student(student: nn.Module, masks: Masks) -> nn.Module:
    """Throw away what was learned: the pruned model as it was."""
    model = student.unload() if isinstance(student, PeftModel) else student
    bake_masks(model)
    _forget_peft(model)
    mask_weights(model, masks)
    return model


def _forget_peft(model: nn.Module) -> None:
    """PEFT leaves its configuration on the model, which would make a second repair warn."""
    if hasattr(model, "peft_config"):
        del model.peft_config
