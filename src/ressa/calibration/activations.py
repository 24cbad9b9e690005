"""Where what blocks are called with and what they give lies between two turns: on the GPU, as long as it fits.

What does not fit waits in pinned host memory; the next call's share of it is on its way on a stream of its own
while the one before computes.
"""

import torch
from torch import Tensor

from ressa.calibration.capture import Call

_SHARE = (
    0.5  # of the memory that is free at the start: the rest is for weights, statistics and a block at work
)


class Activations:
    """Keeps tensors for blocks that compute on `device`. room: bytes to be left free on a GPU (default: half of
    what is free now)."""

    def __init__(self, device: torch.device, room: int | None = None) -> None:
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._coming: tuple[Call, Call, torch.cuda.Event] | None = None
        self.room = int(_free(device) * (1 - _SHARE)) if self._copies and room is None else room or 0

    def keep(self, tensor: Tensor) -> Tensor:
        """A copy of a tensor that the model handed over and may change."""
        kept = self.lay(tensor.detach())
        return kept.clone() if kept.data_ptr() == tensor.data_ptr() else kept

    def lay(self, tensor: Tensor) -> Tensor:
        """The tensor itself, where it may stay, or a copy in host memory."""
        if not tensor.is_cuda or _free(tensor.device) - tensor.nbytes >= self.room:
            return tensor
        waiting = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return waiting.copy_(tensor, non_blocking=True)

    def fetch(self, call: Call, device: torch.device) -> Call:
        """A fresh copy on a device."""
        if self._coming is None or self._coming[0] is not call:
            return call.to(device)
        _, here, arrived = self._coming
        self._coming = None
        now = torch.cuda.current_stream(device)
        now.wait_event(arrived)
        for tensor in here.tensors():
            tensor.record_stream(now)
        return here

    def expect(self, call: Call, device: torch.device) -> None:
        """Start to bring what waits in host memory, to be had by `fetch` later."""
        if self._copies is None or all(tensor.is_cuda for tensor in call.tensors()):
            return
        self._copies.wait_stream(torch.cuda.current_stream(device))  # that has put it where it waits
        with torch.cuda.stream(self._copies):
            self._coming = call, call.to(device), self._copies.record_event()


def _free(device: torch.device) -> int:
    """Bytes that can be had on a GPU: free, or held by PyTorch and unused."""
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused
