"""Where what blocks are called with and what they give lies between two turns: where they compute, as long as it fits.

What does not fit on a GPU waits in pinned host memory; the next call's share of it is on its way on a stream of its
own while the one before computes. What does not fit into host memory either waits in files.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ressa.calibration.capture import Call
from ressa.device import host_memory

_SHARE = (
    0.5  # of the memory that is free at the start: the rest is for weights, statistics and a block at work
)
_SMALL = 1 << 20  # bytes; not worth a file


class Activations:
    """Keeps tensors for blocks that compute on `device`.

    room, host_room: bytes to be left free on a GPU and in host memory (default: half of what is free now).
    folder: where files may grow (default: the system's, TMPDIR says which); they have no names, so that none is left.
    """

    def __init__(
        self,
        device: torch.device,
        room: int | None = None,
        host_room: int | None = None,
        folder: Path | None = None,
    ) -> None:
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._coming: tuple[Call, Call, torch.cuda.Event] | None = None
        self.room = int(_free(device) * (1 - _SHARE)) if self._copies and room is None else room or 0
        self._spare = 0  # bytes that may stay on the GPU before what is free there is asked for again
        self.host_room = int(host_memory() * (1 - _SHARE)) if host_room is None else host_room
        self.folder = folder

    def keep(self, tensor: Tensor) -> Tensor:
        """A copy of a tensor that the model handed over and may change."""
        kept = self.lay(tensor.detach())
        return kept.clone() if kept.data_ptr() == tensor.data_ptr() else kept

    def lay(self, tensor: Tensor) -> Tensor:
        """The tensor itself, where it may stay, or a copy in host memory or in a file."""
        if tensor.is_cuda and self._fits(tensor):
            return tensor
        if tensor.nbytes > _SMALL and host_memory() - tensor.nbytes < self.host_room:
            return self._mapped(tensor).copy_(tensor)
        if not tensor.is_cuda:
            return tensor
        waiting = torch.empty_like(tensor, device="cpu", pin_memory=True)
        return waiting.copy_(tensor, non_blocking=True)

    def _fits(self, tensor: Tensor) -> bool:
        """Whether a tensor may stay on the GPU. To ask it what is free takes as long as a small block: the answer
        holds for as many bytes as would leave most of the room above it."""
        if tensor.nbytes > self._spare:
            above = _free(tensor.device) - tensor.nbytes - self.room
            self._spare = max(0, above // 4)
            return above >= 0
        self._spare -= tensor.nbytes
        return True

    def _mapped(self, like: Tensor) -> Tensor:
        """An empty tensor of this shape whose memory the system writes to a file when it needs the room. The file has
        no name any more, and goes with the tensor."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=".activations-", dir=self.folder) as file:
            os.posix_fallocate(
                file.fileno(), 0, like.nbytes
            )  # a full disk is an error here, not a signal later
            storage: Any = torch.UntypedStorage.from_file(file.name, shared=True, nbytes=like.nbytes)
        strides = torch.empty_like(like, device="meta").stride()  # its own: they decide how sums are made
        return torch.empty(0, dtype=like.dtype).set_(storage, 0, like.shape, strides)

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
