"""Runs a model on calibration inputs: evaluation mode, no cache, its blocks where they should compute."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ressa.anatomy import Anatomy, Block, Chain
from ressa.calibration.capture import call_order, on_device

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Step:
    """One block in the order of a forward, and how often a forward calls it."""

    tower: str
    chain: Chain
    block: Block
    calls: int


class Feed:
    """Runs the model, or the blocks of it, on calibration inputs."""

    def __init__(self, model: Any, anatomy: Anatomy, device: torch.device | str | None) -> None:
        self.model = model
        self.anatomy = anatomy
        self.modules: dict[str, Any] = dict(model.named_modules())
        self.blocks = {block.name: self.modules[block.name] for block in anatomy.blocks()}
        # An empty tensor knows which GPU a bare "cuda" is.
        self.device = None if device is None else torch.empty(0, device=device).device
        parameters = inspect.signature(model.forward).parameters
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        self.accepted = None if takes_any else set(parameters)
        self.extra = {"use_cache": False} if "use_cache" in parameters else {}

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Evaluation mode, no key-value cache, blocks computing on the device; all as before afterwards."""
        parts = list(self.model.modules())
        training = [part.training for part in parts]
        configs = {
            id(config): config for part in parts if (config := getattr(part, "config", None)) is not None
        }
        caching = [config for config in configs.values() if getattr(config, "use_cache", False)]
        try:
            self.model.eval()
            for config in caching:
                config.use_cache = False
            with nullcontext() if self.device is None else on_device(list(self.blocks.values()), self.device):
                yield
        finally:
            for config in caching:
                config.use_cache = True
            for part, was in zip(parts, training, strict=True):
                part.training = was

    def forward(self, batch: Batch) -> None:
        """The whole model on one batch."""
        home, dtype = self.model.device, self.model.dtype
        inputs = {
            name: value.to(home, dtype) if value.is_floating_point() else value.to(home)
            for name, value in batch.items()
            if self.accepted is None or name in self.accepted
        }
        self.model(**inputs, **self.extra)

    def steps(self, batch: Batch) -> list[Step]:
        """The blocks that a forward calls, in the order of their first call."""
        places = {
            block.name: (tower, chain, block)
            for tower in self.anatomy.towers
            for chain in self.anatomy.chains(tower)
            for block in chain.blocks
        }
        counts = call_order(partial(self.forward, batch), self.blocks)
        return [Step(*places[name], calls) for name, calls in counts.items()]
