"""The dense model that repair learns from: the student's own weights without masks, or a model beside it."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from ressa.errors import UsageError
from ressa.repairing.cached import CachedLogits
from ressa.repairing.config import RepairConfig
from ressa.repairing.masked_linear import MaskedLinear
from ressa.repairing.sparse_lora_layer import SparseLoraLinear
from ressa.repairing.weights import DenseWeights, Masks, differing_weight


class Teacher(Protocol):
    """Runs the dense model on a batch, without gradients and without dropout; returns the model's output.

    `network` is the module that runs: its blocks can be hooked.
    """

    network: nn.Module

    def __call__(self, inputs: Mapping[str, Tensor]) -> Any: ...


class SharedTeacher:
    """The student with masks bypassed and adapters off; `adopt_dense_weights` has made its weights dense."""

    def __init__(self, student: nn.Module) -> None:
        self.network = student
        self._dense = _DenseSwitch(student)

    def __call__(self, inputs: Mapping[str, Tensor]) -> Any:
        with torch.no_grad(), self._dense():
            return self.network(**inputs)


class SeparateTeacher:
    """A dense model of its own, moved to the batch's device at the first call."""

    def __init__(self, model: nn.Module) -> None:
        self.network = model.eval()

    def __call__(self, inputs: Mapping[str, Tensor]) -> Any:
        weight, device = next(self.network.parameters()), next(iter(inputs.values())).device
        if weight.device != device:
            self.network.to(device)
        cast = {name: x.to(weight.dtype) if x.is_floating_point() else x for name, x in inputs.items()}
        with torch.no_grad():
            return self.network(**cast)


def dense_teacher(model: nn.Module) -> AbstractContextManager[nn.Module]:
    """Within this context `model` is the dense model: masks bypassed, adapters off, evaluation mode."""
    return _DenseSwitch(model)()


class _DenseSwitch:
    """The modules to switch, found once: a model of thousands of modules is not searched at every step.

    Plain attributes are set, and none of a parameter's, so that DDP and torch.compile are left alone.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.modules = list(model.modules())
        if any(isinstance(module, AuxiliaryTrainingWrapper) for module in self.modules):
            raise UsageError(
                "The dense teacher cannot share a model with modules_to_save: use a separate teacher."
            )
        self.masked = [m for m in self.modules if isinstance(m, SparseLoraLinear | MaskedLinear)]
        self.tuners = [m for m in self.modules if isinstance(m, BaseTunerLayer)]

    @contextmanager
    def __call__(self) -> Iterator[nn.Module]:
        if any(tuner.merged for tuner in self.tuners):
            raise UsageError(
                "The adapters are merged into the weights: unmerge them to use the dense teacher."
            )
        training = [module for module in self.modules if module.training]
        disabled = [tuner.disable_adapters for tuner in self.tuners]
        try:
            for module in training:
                module.__dict__["training"] = False  # nn.Module's own setter is slow for thousands
            for masked in self.masked:
                masked.bypass_mask = True
            for tuner in self.tuners:
                tuner._disable_adapters = True
            yield self.model
        finally:
            for module in training:
                module.__dict__["training"] = True
            for masked in self.masked:
                masked.bypass_mask = False
            for tuner, was in zip(self.tuners, disabled, strict=True):
                tuner._disable_adapters = was


def teacher_form(
    model: nn.Module, masks: Masks, dense: DenseWeights | CachedLogits | None, config: RepairConfig
) -> str:
    """Where the teacher of a repair comes from: "shared", "separate", "cached" or "none" (none is needed).

    Raises UsageError when the form that the config asks for cannot be had.
    """
    if not config.needs_teacher:
        return "none"
    if isinstance(dense, CachedLogits):
        mean = config.kd_reduction == "tokens" and config.kd_positions == "supervised"
        if config.hidden_weight or config.reconstructs or not mean:
            raise UsageError(
                "Cached logits serve the mean over supervised tokens only: give the dense model for hidden "
                "states, reconstruction or the sum over all positions."
            )
        if config.teacher != "auto":
            raise UsageError(f"The teacher cannot be {config.teacher} with cached logits: leave it at auto.")
        return "cached"
    if dense is None:
        raise UsageError("Distillation needs the dense model: give it, or repair with objective='task'.")
    if config.teacher != "separate":
        reason = "this method changes the kept weights"
        if config.method != "masked_finetune" and not config.reconstructs:
            name = differing_weight(model, masks, dense)
            if name is None:
                return "shared"
            reason = f"kept weights of {name} are not the dense ones (SparseGPT, for one, updates them)"
        if config.teacher == "shared":
            raise UsageError(
                f"One copy of the weights cannot serve both models, as {reason}: use a separate teacher."
            )
    else:
        reason = "a separate teacher was asked for"
    if not isinstance(dense, nn.Module):
        raise UsageError(f"The dense model must be in memory, as {reason}: give the model itself.")
    return "separate"
