"""Runs a model on calibration inputs: evaluation mode, no cache, its blocks where they should compute."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ressa.anatomy import Anatomy, Block, Chain
from ressa.calibration.activations import Activations
from ressa.calibration.capture import StandIn, call_order
from ressa.calibration.lending import Lender, Shelf, lent, moved
from ressa.misfit import misfit_told

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Step:
    """One block in the order of a forward, how often a forward calls it, and what can stand in for it.

    handed_over: blocks before it left something for it in a mapping that they share, so that it cannot be called
    unless they have computed. reads_text: its positions may be those of the model's `attention_mask`: a language
    block's, and those of a connector that comes after one (ColPali's projection of every word).
    """

    tower: str
    chain: Chain
    block: Block
    calls: int
    stand_in: StandIn | None
    handed_over: bool
    reads_text: bool


class Feed:
    """Runs the model, or the blocks of it, on calibration inputs."""

    def __init__(
        self,
        model: Any,
        anatomy: Anatomy,
        device: torch.device | str | None,
        shelf: Shelf | None = None,
        spill: Path | None = None,
    ) -> None:
        """spill: the folder where files of what fits into no memory may grow (`Activations`)."""
        self.model = model
        self.anatomy, self.spill = anatomy, spill
        self.modules: dict[str, Any] = dict(model.named_modules())
        self.blocks = {block.name: self.modules[block.name] for block in anatomy.blocks()}
        # An empty tensor knows which GPU a bare "cuda" is.
        self.device = torch.empty(0, device=model.device if device is None else device).device
        self.shelf, self.wider = shelf, None if shelf is None else shelf.computes_in
        self.lends = device is not None or self.wider is not None
        parameters = inspect.signature(model.forward).parameters
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        self.accepted = None if takes_any else set(parameters)
        self.extra: dict[str, Any] = {"use_cache": False} if "use_cache" in parameters else {}
        self.can_skip_logits = "logits_to_keep" in parameters

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Evaluation mode, no key-value cache, all computing on the device; as before afterwards, but for what
        has become of the blocks' weights."""
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
            with ExitStack() as stack:
                self.activations = Activations(self.device, folder=self.spill)
                self.lender = Lender(self.device if self.lends else None, self.shelf)
                stack.callback(self.lender.close)
                blocks = list(self.blocks.values())
                if self.shelf is not None and self.wider is None:
                    blocks += self._vocabulary()  # else models would ask it for their dtype, and get another
                if self.lends:
                    stack.enter_context(moved(self.model, blocks, self.device, self.wider))
                if self.lends or self.shelf is not None:
                    stack.enter_context(lent(blocks, self.lender))
                yield
        finally:
            for config in caching:
                config.use_cache = True
            for part, was in zip(parts, training, strict=True):
                part.training = was

    def _vocabulary(self) -> list[Any]:
        """The modules that hold a row for each word, embeddings and output head: they are as large as blocks."""
        words = getattr(self.model.config.get_text_config(), "vocab_size", None)
        return [
            module
            for module in self.model.modules()
            if any(table.dim() == 2 and len(table) == words for table in module.parameters(recurse=False))
        ]

    def forward(self, batch: Batch) -> None:
        """The whole model on one batch."""
        dtype = self.wider or self.model.dtype
        inputs = {
            name: value.to(self.device, dtype) if value.is_floating_point() else value.to(self.device)
            for name, value in batch.items()
            if self.accepted is None or name in self.accepted
        }
        fewer = {"logits_to_keep": 1} if self.can_skip_logits and "labels" not in inputs else {}
        self.model(**inputs, **self.extra, **fewer)

    def steps(self, batch: Batch) -> list[Step]:
        """The blocks that a forward calls, in the order of their first call."""
        places = {
            block.name: (tower, chain, block)
            for tower in self.anatomy.towers
            for chain in self.anatomy.chains(tower)
            for block in chain.blocks
        }
        with misfit_told():
            seen = call_order(partial(self.forward, batch), self.blocks)
        steps: list[Step] = []
        after_text = False
        for name, found in seen.items():
            tower, chain, block = places[name]
            is_text = tower == "language" and not chain.reads_labels
            reads_text = is_text or (after_text and tower == "connector")
            steps.append(
                Step(tower, chain, block, found.calls, found.stand_in, found.handed_over, reads_text)
            )
            after_text |= is_text
        return steps
