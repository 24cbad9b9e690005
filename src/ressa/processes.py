"""One run in several processes (torchrun, accelerate launch): the first writes, the others wait for it."""

import os
import sys
from typing import TYPE_CHECKING, NoReturn

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


def leave(status: int) -> NoReturn:
    """End this process with an exit status; one of several ends without the interpreter's teardown.

    A worker thread of gloo lets go of the last collective's tensors in its own time. If that falls into the
    teardown, where no other thread may run Python any more, it aborts a process whose work is done
    (PyTorch's pull request 179291).
    """
    if not are_several():
        sys.exit(status)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
