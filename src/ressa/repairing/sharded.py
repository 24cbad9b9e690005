"""Training a student whose weights are sharded over the processes (FSDP2, set up by accelerate).

FSDP2 turns a network's parameters into shards for good. So it gets a twin of the student, and the student itself
stays plain: what the twin learned is gathered into it, to be merged as after any other training.
"""

import copy
from typing import Any, cast

import torch
from peft import PeftModel
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from ressa.anatomy import Anatomy
from ressa.errors import UsageError
from ressa.repairing.masked_linear import MaskedLinear


def choose_shards(plugin: Any, student: nn.Module, anatomy: Anatomy) -> None:
    """Complete what an accelerate config says of FSDP: blocks are gathered one at a time.

    plugin: accelerate's FullyShardedDataParallelPlugin. Raises UsageError for FSDP 1.
    """
    if plugin.fsdp_version != 2:
        raise UsageError("FSDP 1 flattens the weights, so that no mask fits them: set fsdp_version: 2.")
    # Every process has read the weights, and accelerate cannot send masks, which are buffers.
    plugin.cpu_ram_efficient_loading = False
    if plugin.transformer_cls_names_to_wrap is None:
        model = student.get_base_model() if isinstance(student, PeftModel) else student
        rows = (chain.blocks for chain in anatomy.chains() if len(chain.blocks) > 1)
        kinds = {type(model.get_submodule(block.name)).__name__ for blocks in rows for block in blocks}
        plugin.transformer_cls_names_to_wrap = sorted(kinds)


def make_twin(student: nn.Module) -> nn.Module:
    """A copy of the student with parameters of its own in the student's storage, until FSDP2 shards them."""
    shared = {id(p): nn.Parameter(p.detach(), requires_grad=p.requires_grad) for p in student.parameters()}
    twin = copy.deepcopy(student, shared)
    tied: dict[int, nn.Module] = {}
    for name, module in list(twin.named_modules()):
        if isinstance(module, MaskedLinear):
            del module.__dict__["original"]  # it would keep the whole weight
        elif type(module) is nn.Embedding:  # FSDP2 ties by module, T5 by weight
            twin.set_submodule(name, tied.setdefault(id(module.weight), module))
    return twin


@torch.no_grad()
def gather_trained(student: nn.Module, twin: nn.Module) -> None:
    """Copy what the sharded twin learned into the student; every process of the run must call this."""
    for ours, theirs in zip(student.parameters(), twin.parameters(), strict=True):
        if theirs.requires_grad:
            ours.copy_(cast(DTensor, theirs).full_tensor())


def gather_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state dict of an optimiser of sharded parameters, whole; every process of the run must call this."""
    state = optimizer.state_dict()
    state["state"] = {
        number: {key: x.full_tensor().cpu() if isinstance(x, DTensor) else x for key, x in entry.items()}
        for number, entry in state["state"].items()
    }
    return state


def scatter_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a whole state dict into an optimiser of sharded parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state["state"] = {
        number: {
            # Moments lie as their parameter does; the count of steps is one number.
            key: distribute_tensor(x, parameters[number].device_mesh, parameters[number].placements)
            if x.shape == parameters[number].shape
            else x
            for key, x in entry.items()
        }
        for number, entry in state["state"].items()
    }
    optimizer.load_state_dict(state)
