"""One run in several processes (torchrun, accelerate launch): the first writes, the others wait for it."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def are_several() -> bool:
    """Whether a launcher started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first() -> bool:
    """Whether this is the process that writes and prints."""
    return not are_several() or int(os.environ.get("RANK", "0")) == 0


def meet(device: "torch.device") -> None:
    """Wait until every process of the run has come here. device: where the run computes."""
    if are_several():
        from accelerate import PartialState

        PartialState(cpu=device.type == "cpu").wait_for_everyone()
