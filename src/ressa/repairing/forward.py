"""How repair runs a model: without what training does not need, and with what the losses read."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from ressa.errors import UsageError
from ressa.misfit import misfit_told


def logits_of(output: Any) -> Tensor:
    """The logits (batch, length, vocabulary) of a model's output. Raises UsageError if it has none."""
    logits = getattr(output, "logits", None)
    if logits is None:
        raise UsageError(
            f"The model gives no logits (its output is a {type(output).__name__}): only models that generate "
            "text can be repaired."
        )
    return logits


def plain(network: nn.Module) -> nn.Module:
    """The model within its adapters."""
    return network.get_base_model() if isinstance(network, PeftModel) else network


def cast_floats(inputs: Any, dtype: torch.dtype) -> Any:
    """Inputs, however nested, with what is floating-point in a dtype."""
    if isinstance(inputs, Mapping):
        return {name: cast_floats(value, dtype) for name, value in inputs.items()}
    return inputs.to(dtype) if inputs.is_floating_point() else inputs


@contextmanager
def recorded_outputs(model: nn.Module, names: Sequence[str], outputs: list[Tensor]) -> Iterator[None]:
    """Append the output (batch, length, width) of each named module to `outputs` as it runs."""

    def record(_module: nn.Module, _args: Any, output: Any) -> None:
        outputs.append(output if isinstance(output, Tensor) else output[0])

    handles = [plain(model).get_submodule(name).register_forward_hook(record) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def logits_at(network: nn.Module, index: Tensor, shape: tuple[int, int]) -> Iterator[list[bool]]:
    """Within this context a model makes logits (1, positions, vocabulary) at some positions alone: a vocabulary of
    50,000 words over every position of a picture is most of a small model's work, and of its memory.

    index: which of the batch's (batch, length) positions, flattened. What it yields is empty after a forward that made
    them everywhere, as where the states of the head are not laid out as `shape`.
    """
    made: list[bool] = []

    def select(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not args or args[0].dim() != 3 or args[0].shape[:2] != shape:
            return None
        made.append(True)
        return (args[0].flatten(0, 1).index_select(0, index)[None], *args[1:])

    model: Any = plain(network)
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    handle = head.register_forward_pre_hook(select) if isinstance(head, nn.Module) else None
    try:
        yield made
    finally:
        if handle is not None:
            handle.remove()


@contextmanager
def eager_attention(model: nn.Module) -> Iterator[None]:
    """Within this context attention is plain products and a softmax.

    On a CPU with bfloat16 matrix units that is faster than the fused kernel, whose backward does not use them.
    """
    parts = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    configs = list({id(part.config): part.config for part in parts}.values())
    before = [config._attn_implementation for config in configs]
    try:
        for part in parts[:1]:
            part.set_attn_implementation("eager")
        yield
    finally:
        for config, implementation in zip(configs, before, strict=True):
            config._attn_implementation_internal = implementation


@contextmanager
def walked_once(network: nn.Module) -> Iterator[None]:
    """Within this context the network answers from a list what a trainer asks of it at every step.

    Adapters give a network thousands of modules, and to walk through them for `train`, `zero_grad` and, when
    gradients are clipped, `parameters` takes longer than a small batch. Meanwhile its parameters must stay the
    ones they are, and `train` must not be called on a part of it.
    """
    parameters = list(network.parameters())

    def train(mode: bool = True) -> nn.Module:
        return network if network.training is mode else type(network).train(network, mode)

    def zero_grad() -> None:
        for parameter in parameters:
            parameter.grad = None

    answers = {"parameters": lambda: iter(parameters), "train": train, "zero_grad": zero_grad}
    network.__dict__.update(answers)
    try:
        yield
    finally:
        for name in answers:
            del network.__dict__[name]


@contextmanager
def lean_forward(model: nn.Module) -> Iterator[None]:
    """Within this context the model makes no key-value cache and computes no loss of its own."""

    def no_loss(*args: Any, **kwargs: Any) -> Tensor:
        return (kwargs["logits"] if "logits" in kwargs else args[0]).new_zeros(())

    parts = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    configs = {id(part.config): part.config for part in parts}.values()
    # Of every config, as the Trainer gives one to configs that had none.
    caching = [(config, getattr(config, "use_cache", None)) for config in configs]
    losses = [(part, part.__dict__.get("_loss_function")) for part in parts]
    try:
        for config, cached in caching:
            if cached:
                config.use_cache = False
        for part in parts:
            part._loss_function = no_loss
        yield
    finally:
        for config, cached in caching:
            if cached is None:
                vars(config).pop("use_cache", None)
            else:
                config.use_cache = cached
        for part, own in losses:
            if own is None:
                del part._loss_function
            else:
                part._loss_function = own


@dataclass(frozen=True)
class Forward:
    """Runs whole models as they are where a repair computes. bf16: under autocast to bfloat16, as in training."""

    device: torch.device
    bf16: bool = False

    @contextmanager
    def of(self, model: nn.Module) -> Iterator[Callable[[Mapping[str, Tensor]], Any]]:
        """Within this context a copy of the model's weights is on the device; what it yields runs it on a batch of
        inputs, in evaluation mode, and returns its output."""
        training = model.training
        before = [(tensor, tensor.data) for tensor in chain(model.parameters(), model.buffers())]
        dtype = next(model.parameters()).dtype

        def run(batch: Mapping[str, Tensor]) -> Any:
            inputs = {
                name: value.to(self.device, dtype if value.is_floating_point() else value.dtype)
                for name, value in batch.items()
            }
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16), misfit_told():
                return model(**inputs)

        try:
            for tensor, data in before:
                tensor.data = data.to(self.device)
            model.eval()
            with lean_forward(model):
                yield run
        finally:
            for tensor, data in before:
                tensor.data = data
            model.train(training)
