"""Run by accelerate launch with an FSDP2 config: the repair of run_repair, sharded.

accelerate shards on GPUs and their like only. Without one it is told that the processes of a CPU can do it too;
all else is its own.
"""

import runpy
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from ressa.repairing import training

own_init, own_gather = AcceleratorState.__init__, training.gather_trained


def init_for_any_device(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **options: Any) -> None:
    own_init(self, *args, fsdp_plugin=fsdp_plugin, **options)
    if fsdp_plugin is not None:
        self.fsdp_plugin = fsdp_plugin
        self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP


def gather_from_shards(student: nn.Module, twin: nn.Module) -> None:
    """Each process holds half of every weight, and gathers a block at a time; the student alone is whole."""
    assert all(isinstance(parameter, DTensor) for parameter in twin.parameters())
    assert not any(isinstance(parameter, DTensor) for parameter in student.parameters())
    groups = [module for module in twin.modules() if isinstance(module, FSDPModule)]
    assert len(groups) > 4  # two blocks a tower, and the rest
    own_gather(student, twin)


if __name__ == "__main__":
    if not torch.cuda.is_available():
        AcceleratorState.__init__ = init_for_any_device  # type: ignore[method-assign]
    training.gather_trained = gather_from_shards
    runpy.run_path(str(Path(__file__).with_name("run_repair.py")), run_name="__main__")
