"""Blocks that live on the host compute on a GPU: their weights come over for a while, and go home changed.

Weights travel through pinned memory, in threads of their own: the next block is on its way while one computes, and
the one before on its way home.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ressa.calibration.capture import StandIn

Copies = list[tuple[Tensor, Tensor]]  # a parameter or buffer, and its data elsewhere


class Shelf(Protocol):
    """Where weights lie that are in memory only while they are used: the disk (`checkpoint.StreamedWeights`).

    computes_in: a wider dtype that those of half precision have while they are used; None for their own.
    """

    computes_in: torch.dtype | None

    def announce(self, module: nn.Module) -> None:
        """A module's weights will be read soon."""

    def let_go(self, tensor: Tensor) -> None:
        """What a parameter's weights take of memory is free: they have been copied."""

    def put_back(self, module: nn.Module) -> None:
        """A module's weights are what lies on the shelf, and take no memory."""


class Lender:
    """Brings modules to a device and takes them home. To be closed; then every module is at home.

    device: None leaves every module where it lives. shelf: where their weights lie, if not in memory; whoever
    changes a module's weights puts the new ones there before it is taken home.
    """

    def __init__(self, device: torch.device | None, shelf: Shelf | None = None) -> None:
        self.device, self.shelf = device, shelf
        self.wider = None if shelf is None else shelf.computes_in
        self.there = ThreadPoolExecutor(1)
        self.back = ThreadPoolExecutor(1)
        self.coming: dict[nn.Module, Future[tuple[Copies, Any]]] = {}
        self.lent: set[nn.Module] = set()
        self.away: dict[nn.Module, Copies] = {}  # whose weights are on the device, with their data at home
        self.returning: dict[nn.Module, Future[None]] = {}

    def expect(self, module: nn.Module) -> None:
        """Start to bring the weights of a module that will compute soon."""
        if self.shelf is not None:
            self.shelf.announce(module)
            if self.wider is not None:
                return  # there is no room for another that is twice as large
        if self._is_elsewhere(module) and module not in self.coming:
            self._returned(module)
            self.coming[module] = self.there.submit(self._send, module)

    def bring(self, module: nn.Module) -> None:
        """The module's weights are on the device from now on."""
        self.lent.add(module)
        if not self._is_elsewhere(module):
            return
        self.expect(module)
        future = self.coming.pop(module, None)
        copies, arrived = self._send(module) if future is None else future.result()
        if arrived is not None:
            now = torch.cuda.current_stream(self.device)
            now.wait_event(arrived)
            for _, here in copies:
                here.record_stream(now)
        self.away[module] = [(tensor, tensor.data) for tensor, _ in copies]
        for tensor, here in copies:
            tensor.data = here

    def take_home(self, module: nn.Module, *, changed: bool) -> None:
        """The module's weights are where they were, with what has become of them if they have `changed`."""
        self.lent.discard(module)
        homes = [(tensor, home, tensor.data) for tensor, home in self.away.pop(module, ())]
        for tensor, home, _ in homes:
            tensor.data = home
        if self.shelf is not None:
            self.shelf.put_back(module)
        elif changed and homes:
            done = None
            if self.device is not None and self.device.type == "cuda":
                done = torch.cuda.current_stream(self.device).record_event()
            self.returning[module] = self.back.submit(self._return, homes, done)

    def close(self) -> None:
        """Everything at home, nothing on its way."""
        for future in self.coming.values():
            future.result()
        self.coming.clear()
        for module in list(self.lent):
            self.take_home(module, changed=True)
        for module in list(self.returning):
            self._returned(module)
        self.there.shutdown()
        self.back.shutdown()

    def _is_elsewhere(self, module: nn.Module) -> bool:
        if self.device is None:
            return False
        return self.wider is not None or next(module.parameters()).device != self.device

    def _returned(self, module: nn.Module) -> None:
        if module in self.returning:
            self.returning.pop(module).result()

    @torch.no_grad()
    def _send(self, module: nn.Module) -> tuple[Copies, Any]:
        assert self.device is not None
        tensors = [*module.parameters(), *module.buffers()]
        if self.device.type != "cuda":
            copies = [(tensor, widened(tensor.data.to(self.device), self.wider)) for tensor in tensors]
            return copies, None
        stream = torch.cuda.Stream(self.device)
        with torch.cuda.stream(stream):
            copies = []
            for tensor in tensors:
                here = _pinned(tensor).to(self.device, non_blocking=True, copy=True)
                copies.append((tensor, widened(here, self.wider)))
                if self.shelf is not None:
                    self.shelf.let_go(tensor)
            return copies, stream.record_event()

    @torch.no_grad()
    def _return(self, homes: Sequence[tuple[Tensor, Tensor, Tensor]], done: Any) -> None:
        """homes: a parameter or buffer, its data at home, its data here. What comes home gets storage of its own,
        as another model may share the old one."""
        if done is None:
            for tensor, home, here in homes:
                tensor.data = here.to(home.device)
            return
        stream = torch.cuda.Stream(self.device)
        stream.wait_event(done)
        with torch.cuda.stream(stream):
            waiting = [
                torch.empty(here.shape, dtype=here.dtype, pin_memory=True).copy_(here, non_blocking=True)
                for _, _, here in homes
            ]
        stream.synchronize()
        for (tensor, home, _), pinned in zip(homes, waiting, strict=True):
            tensor.data = torch.empty(pinned.shape, dtype=pinned.dtype, device=home.device).copy_(pinned)


def widened(tensor: Tensor, wider: torch.dtype | None) -> Tensor:
    """A tensor of half precision in a wider dtype; any other, or without one, as it is."""
    if wider is None or not tensor.is_floating_point() or tensor.itemsize >= wider.itemsize:
        return tensor
    return tensor.to(wider)


def _pinned(tensor: Tensor) -> Tensor:
    data = tensor.data
    if data.is_cuda or data.is_pinned():
        return data
    return torch.empty(data.shape, dtype=data.dtype, pin_memory=True).copy_(data)


@contextmanager
def lent(blocks: Sequence[nn.Module], lender: Lender) -> Iterator[None]:
    """Each block that is called computes on the lender's device; its weights are there for each such call.

    A block that is there when called just runs, and so does one that a stand-in computes for.
    """

    def before(block: nn.Module, _args: Any) -> None:
        if block not in lender.lent and not isinstance(block.__dict__.get("forward"), StandIn):
            lender.bring(block)
            for_the_call.add(block)

    def after(block: nn.Module, _args: Any, _output: Any) -> None:
        if block in for_the_call:
            for_the_call.remove(block)
            lender.take_home(block, changed=False)

    for_the_call: set[nn.Module] = set()
    with ExitStack() as hooks:
        for block in blocks:
            hooks.callback(block.register_forward_pre_hook(before).remove)
            hooks.callback(block.register_forward_hook(after, prepend=True, always_call=True).remove)
        yield


@contextmanager
def moved(
    model: nn.Module, blocks: Sequence[nn.Module], device: torch.device, wider: torch.dtype | None = None
) -> Iterator[None]:
    """What a model is made of beside the blocks is on `device` for the time, and in a wider dtype if one is given;
    nothing may change it there."""
    apart = {id(tensor) for block in blocks for tensor in (*block.parameters(), *block.buffers())}
    rest = [t for t in (*model.parameters(), *model.buffers()) if id(t) not in apart]
    homes = [(tensor, tensor.data) for tensor in rest]
    try:
        for tensor in rest:
            tensor.data = widened(tensor.data.to(device), wider)
        yield
    finally:
        for tensor, home in homes:
            tensor.data = home
