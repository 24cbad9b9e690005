"""One run in several processes (torchrun, accelerate launch): the first writes, the others wait for it."""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn, TypeVar

if TYPE_CHECKING:
    import torch

K = TypeVar("K")
T = TypeVar("T")


def are_several() -> bool:
    """Whether a launcher started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def are_sharded() -> bool:
    """Whether the launcher wants the model sharded over the processes, which takes GPUs."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true", "yes", "y", "t", "on")


def is_first() -> bool:
    """Whether this is the process that writes and prints."""
    return not are_several() or int(os.environ.get("RANK", "0")) == 0


def meet(device: "torch.device") -> None:
    """Wait until every process of the run has come here. device: where the run computes."""
    if are_several():
        from accelerate import PartialState

        PartialState(cpu=device.type == "cpu").wait_for_everyone()


def place() -> tuple[int, int]:
    """This process's rank, and how many have met and work together: (0, 1) for one alone."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def share(items: Sequence[T]) -> Sequence[T]:
    """This process's share of what all of them were given; where there is not one for each, each takes all."""
    rank, processes = place()
    return items[rank::processes] if len(items) >= processes else items


def least(number: int, device: "torch.device") -> int:
    """The smallest of the numbers that the processes have, so that all decide alike. device: where they compute."""
    if place()[1] == 1:
        return number
    import torch
    import torch.distributed as dist

    tensor = torch.tensor(int(number), device=device)
    dist.all_reduce(tensor, dist.ReduceOp.MIN)
    return int(tensor)


def from_first(value: T, device: "torch.device") -> T:
    """What the first process has, in all of them. device: where they compute."""
    if place()[1] == 1:
        return value
    import torch.distributed as dist

    held = [value]
    dist.broadcast_object_list(held, 0, device=device if device.type == "cuda" else None)
    return held[0]


def merged(found: dict[K, T]) -> dict[K, T]:
    """What all processes found, in each of them."""
    if place()[1] == 1:
        return found
    import torch.distributed as dist

    each: list[dict[K, T]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(each, found)
    return {key: value for one in each for key, value in one.items()}


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
