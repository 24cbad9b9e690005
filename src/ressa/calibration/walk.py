"""Calibration block by block, in the order data flows, each block fed by its already pruned predecessors.

A whole forward per batch, stopped early, records what a chain's blocks are called with. Then each block runs
by itself: once with hooks that feed statistics, then `visit` prunes it in place, then once more for what the
next block gets. Where a model does something of its own between two blocks (adds image features, merges
patches), the inputs of the later block are recorded anew from a whole forward.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ressa.anatomy import Anatomy, Block
from ressa.calibration.capture import Call, Record, capture, independent, leaves, linked_alike, to_device
from ressa.calibration.feed import Batch, Feed, Step
from ressa.calibration.padding import Kept, image_positions
from ressa.calibration.statistics import Statistics
from ressa.calibration.tokens import VisualDistance, select_tokens
from ressa.errors import UsageError

Visit = Callable[[Block, dict[str, Statistics]], None]
Factory = Callable[[str, nn.Linear], Statistics | None]


@torch.no_grad()
def walk(
    model: nn.Module,
    anatomy: Anatomy,
    batches: Sequence[Batch],
    visit: Visit,
    statistics: Factory,
    device: torch.device | str | None = None,
    *,
    layers: Collection[str] | None = None,
    atv: float | None = None,
) -> None:
    """Call `visit(block, statistics)` for every block, in the order a forward calls them.

    batches: model inputs, as the model's forward takes them. visit: may change the block's weights in place;
    it is given the statistics of those linears for which `statistics(name, linear)` made one. device: where a
    block computes (default: where it lives); elsewhere it is moved there for its turn and back. layers: only
    these linears, and the blocks that hold them, are visited (default: all). atv: count all text tokens but
    only the image tokens that a block changes most (arXiv 2603.16001); the number is the paper's α.

    Padding is left out of the statistics, image tokens count like any other. Only one block's statistics
    exist at a time. Raises UsageError if the calibration inputs never reach one of the layers.
    """
    feed = Feed(model, anatomy, device)
    wanted = set(anatomy.linears() if layers is None else layers)
    with feed.ready():
        steps = feed.steps(batches[0])
        reached = {name for step in steps for name in step.block.linears}
        if unreached := [name for name in anatomy.linears() if name in wanted - reached]:
            raise _never_reached(unreached)
        done = 0
        while pending := [i for i in range(done, len(steps)) if wanted & set(steps[i].block.linears)]:
            begin = pending[0]
            others = (i for i in range(begin, len(steps)) if steps[i].chain is not steps[begin].chain)
            stop = next(others, len(steps))
            end = max(i for i in pending if i < stop) + 1
            done = begin + _Run(feed, batches, steps, begin, end, atv).walk(wanted, visit, statistics)


class _Run:
    """Consecutive blocks of one chain, each fed with what the one before gives.

    It ends early, before a block for which the model makes inputs of its own from what the chain gave so far.
    """

    def __init__(
        self,
        feed: Feed,
        batches: Sequence[Batch],
        steps: Sequence[Step],
        begin: int,
        end: int,
        atv: float | None,
    ) -> None:
        self.feed, self.batches, self.steps, self.atv = feed, batches, steps[begin:end], atv
        later = [s for s in steps[end:] if s.tower == "language" and s.chain is not steps[begin].chain]
        blocks = [feed.blocks[step.block.name] for step in self.steps]

        def record(batch: Batch, perturb: bool = False) -> Record:
            return capture(
                partial(feed.forward, batch),
                blocks,
                # A tower may be called once an image, so its last block's return says little.
                until=feed.blocks[later[0].block.name] if later else None,
                once=not later and all(step.calls == 1 for step in steps[begin:end]),
                perturb=perturb,
            )

        first = record(batches[0])
        if len(blocks) > 1:
            alone = independent(first, record(batches[0], perturb=True))
            blocks = blocks[:alone]
        self.records = [first, *(record(batch) for batch in batches[1:])]
        self.steps = self.steps[: linked_alike(self.records, len(blocks))]

    def walk(self, wanted: Collection[str], visit: Visit, statistics: Factory) -> int:
        """Visit the blocks; returns how many there were."""
        outputs: list[list[Any]] = [[] for _ in self.batches]
        for i, step in enumerate(self.steps):
            calls = [
                [call.resolve(given) for call in record[i]]
                for record, given in zip(self.records, outputs, strict=True)
            ]
            block = self.feed.blocks[step.block.name]
            home = next(block.parameters()).device
            try:
                if self.feed.device is not None:
                    block.to(self.feed.device)
                if names := [name for name in step.block.linears if name in wanted]:
                    visit(step.block, self._gather(step, calls, names, statistics))
                if i + 1 < len(self.steps) and any(
                    call.linked() for record in self.records for call in record[i + 1]
                ):
                    outputs = [[to_device(self._run(block, call), home) for call in batch] for batch in calls]
            finally:
                block.to(home)
            for record in self.records:
                record[i] = []
        return len(self.steps)

    def _gather(
        self, step: Step, calls: list[list[Call]], names: Sequence[str], statistics: Factory
    ) -> dict[str, Statistics]:
        """Statistics of the inputs of the linears of one block."""
        linears = {name: self.feed.modules[name] for name in names}
        gathered = {name: made for name in names if (made := statistics(name, linears[name])) is not None}
        if not gathered:
            return {}
        chosen = self._choose_tokens(step, calls) if self.atv is not None else {}
        block = self.feed.blocks[step.block.name]
        kept: Kept | None = None
        reached: set[str] = set()

        def update(name: str, x: Tensor) -> None:
            reached.add(name)
            gathered[name].update(*((x, None) if kept is None else kept.split(x)))

        with ExitStack() as hooks:
            for name in gathered:
                hook = linears[name].register_forward_pre_hook(
                    lambda _m, args, name=name: update(name, args[0])
                )
                hooks.callback(hook.remove)
            for b, batch in enumerate(calls):
                for c, call in enumerate(batch):
                    call = call.to(next(block.parameters()).device)
                    kept = self._kept(step, call, self.batches[b])
                    if kept is not None and (b, c) in chosen:
                        kept.positions = chosen[b, c]
                    block(*call.args, **call.kwargs)
        if missing := [name for name in gathered if name not in reached]:
            raise _never_reached(missing)
        return gathered

    def _kept(self, step: Step, call: Call, batch: Batch) -> Kept | None:
        """Which positions count in a call; None: all, as in a vision tower."""
        if step.tower == "vision":
            return None
        reads_text = step.tower == "language" and not step.chain.reads_labels
        return Kept(
            self.feed.blocks[step.block.name],
            call,
            batch.get("attention_mask") if reads_text else None,
            batch.get("labels") if step.chain.reads_labels else None,
        )

    def _choose_tokens(self, step: Step, calls: list[list[Call]]) -> dict[tuple[int, int], Tensor]:
        """Positions that count by the distance between a block's input and output: (batch, call) → bool
        (batch, length). Empty for blocks that do not see text and image together."""
        if step.tower != "language" or step.chain.reads_labels or self.atv is None:
            return {}
        block = self.feed.blocks[step.block.name]
        distance = VisualDistance()
        seen: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor, Tensor | None]] = {}
        for b, batch in enumerate(calls):
            visual = image_positions(self.feed.model, self.batches[b])
            for c, call in enumerate(batch):
                kept = self._kept(step, call, self.batches[b])
                states = None if kept is None else kept.hidden
                if kept is None or states is None or visual is None or visual.shape != states.shape[:2]:
                    raise UsageError(
                        f"'{step.block.name}' sees no image tokens that input_ids mark, so none can be "
                        "chosen among them: leave the choice of tokens at its default."
                    )
                out = self._run(block, call)
                output = next(leaf for _, leaf in leaves(out) if getattr(leaf, "shape", None) == states.shape)
                seen[b, c] = (states, output.to(states.device), visual.to(states.device), kept.positions)
                distance.update(*seen[b, c])
        distance.all_reduce(next(block.parameters()).device)
        return {place: select_tokens(*what, self.atv, distance.mean()) for place, what in seen.items()}

    def _run(self, block: nn.Module, call: Call) -> Any:
        """What the block gives, on its device."""
        call = call.to(next(block.parameters()).device)
        return block(*call.args, **call.kwargs)


def _never_reached(layers: Sequence[str]) -> UsageError:
    more = f" and {len(layers) - 1} more" if len(layers) > 1 else ""
    return UsageError(
        f"Calibration never reaches the layer '{layers[0]}'{more}, so nothing is known of its inputs: leave "
        "it out of the plan, give calibration samples that use it, or choose a method that needs none."
    )
