"""Networks whose blocks torch compiles for the time of a training."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException
from transformers import PreTrainedModel
from transformers.utils.output_capturing import maybe_install_capturing_hooks

from ressa.errors import RunError
from ressa.repairing.forward import plain

MOST_FORMS = (
    64  # of one block's function: run by student and by teacher, in each dtype, with and without a mask
)


@contextmanager
def compiled_blocks(networks: Iterable[nn.Module], names: Sequence[str]) -> Iterator[None]:
    """Within this context the named blocks of each network are compiled as they first run, for batches of any size.

    Blocks that are alike share what is compiled. Norms, rotations, activations and masks, which are passes over memory
    one after the other, become one each. Nothing that was compiled before serves here: weights may learn now that did
    not then.

    Raises RunError where they cannot be compiled.
    """
    models = [plain(network) for network in networks]
    blocks = list(dict.fromkeys(model.get_submodule(name) for model in models for name in names))
    own = [block.__dict__.get("forward") for block in blocks]
    recorders = _recorders(models, blocks)
    torch._dynamo.reset()
    try:
        for hooks, number, _ in recorders:
            hooks.pop(number, None)
        with torch._dynamo.config.patch(recompile_limit=MOST_FORMS):
            for (
                block
            ) in blocks:  # their functions and not the modules, whose own hooks would cut the graphs in two
                block.forward = _compiled(block.forward)
            yield
    finally:
        for block, forward in zip(blocks, own, strict=True):
            block.__dict__.pop("forward", None)
            if forward is not None:
                block.__dict__["forward"] = forward
        for hooks, number, hook in recorders:
            hooks[number] = hook


def _compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    compiled = torch.compile(forward, dynamic=True)

    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return compiled(*args, **kwargs)
        except TorchDynamoException as problem:
            reason = " ".join(str(problem).split())[:300]
            raise RunError(
                f"torch cannot compile the model's blocks ({reason}): leave the option compile out."
            ) from problem

    return run


def _recorders(
    models: Sequence[nn.Module], blocks: Sequence[nn.Module]
) -> list[tuple[dict[int, Any], int, Any]]:
    """The hooks within blocks by which transformers records attention maps: training asks for none, and they would cut
    each block's graph in two. Modules' hooks, the number of one, and it."""
    for model in models:
        _install_recorders(model)
    return [
        (module._forward_hooks, number, hook)
        for block in blocks
        for module in block.modules()
        for number, hook in module._forward_hooks.items()
        if module is not block and hook.__module__ == maybe_install_capturing_hooks.__module__
    ]


def _install_recorders(module: nn.Module) -> None:
    """As the first forward would; but not from above a tower that has its own already, for it would then record
    everything twice and a feature layer be taken at the wrong depth."""
    ready = [isinstance(each, PreTrainedModel) and _records(each) for each in module.modules()]
    if isinstance(module, PreTrainedModel) and not any(ready):
        maybe_install_capturing_hooks(module)
    elif not ready[0]:
        for child in module.children():
            _install_recorders(child)


def _records(model: PreTrainedModel) -> bool:
    return getattr(model, "_output_capturing_hooks_installed", False)
