"""The blocks of a model in the order data flows, each with what the blocks before it give as they are now.

A whole forward per batch, stopped early, records what a chain's blocks are called with. Then each block runs
by itself: whoever has its turn may change it, then it runs once for what the next block gets. Where a model does
something of its own between two blocks (adds image features, merges patches), the inputs of the later block are
recorded anew from a whole forward. No forward computes a block whose inputs it records, where a stand-in can be had.
"""

from collections import deque
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ressa.calibration.activations import Activations
from ressa.calibration.capture import Call, Record, capture, independent, linked_alike, map_leaves
from ressa.calibration.feed import Batch, Feed, Step
from ressa.calibration.padding import Kept
from ressa.processes import least


@dataclass
class Turn:
    """One block's turn: `calls` says how it is called, [batch][call]; the block is where it computes."""

    step: Step
    block: nn.Module
    calls: list[list[Call]]
    activations: Activations
    outputs: list[list[Any]] | None = None

    @property
    def device(self) -> torch.device:
        """Where the block computes."""
        return next(self.block.parameters()).device

    def ready_calls(self) -> Iterator[tuple[int, int, Call]]:
        """Batch, call and a fresh copy of the arguments where the block computes, for each call."""
        queue = [(b, c, call) for b, calls in enumerate(self.calls) for c, call in enumerate(calls)]
        for i, (b, c, call) in enumerate(queue):
            here = self.activations.fetch(call, self.device)
            if i + 1 < len(queue):
                self.activations.expect(queue[i + 1][2], self.device)
            yield b, c, here

    def give(self) -> list[list[Any]]:
        """What the block gives, [batch][call]; it is not computed again for the next block. The calls are gone
        afterwards, so that inputs and outputs need the room of one."""
        outputs: list[list[Any]] = [[] for _ in self.calls]
        queue = deque((b, call) for b, calls in enumerate(self.calls) for call in calls)
        self.calls = []
        while queue:
            b, call = queue.popleft()
            here = self.activations.fetch(call, self.device)
            del call
            if queue:
                self.activations.expect(queue[0][1], self.device)
            outputs[b].append(map_leaves(self.block(*here.args, **here.kwargs), self._lay))
        self.outputs = outputs
        return outputs

    def run(self, call: Call) -> Any:
        """What the block as it is now gives to one call."""
        call = self.activations.fetch(call, self.device)
        return self.block(*call.args, **call.kwargs)

    def _lay(self, leaf: Any) -> Any:
        return self.activations.lay(leaf) if isinstance(leaf, Tensor) else leaf

    def kept(self, call: Call, batch: Batch) -> Kept:
        """Which positions count in a call on a batch."""
        return Kept(
            self.block,
            call,
            batch.get("attention_mask"),
            batch.get("labels") if self.step.chain.reads_labels else None,
            self.step.reads_text,
        )


def turns(
    feed: Feed, batches: Sequence[Batch], steps: Sequence[Step], layers: Collection[str]
) -> Generator[Turn]:
    """The turn of every block of `steps` (all that a forward calls) that holds one of `layers`.

    To be called, and gone through, while the feed is ready and without gradients; to be closed if left early.
    """
    wanted, done = set(layers), 0
    while pending := [i for i in range(done, len(steps)) if wanted & set(steps[i].block.linears)]:
        begin = pending[0]
        later = range(begin + 1, len(steps))
        others = (i for i in later if steps[i].chain is not steps[begin].chain or steps[i].handed_over)
        stop = next(others, len(steps))
        end = max(i for i in pending if i < stop) + 1
        run = _Run(feed, batches, steps, begin, end)
        done = begin + len(run.steps)
        with closing(run.turns(wanted)) as found:
            yield from found


class _Run:
    """Consecutive blocks of one chain, each fed with what the one before gives.

    It ends early, before a block for which the model makes inputs of its own from what the chain gave so far.
    """

    def __init__(
        self, feed: Feed, batches: Sequence[Batch], steps: Sequence[Step], begin: int, end: int
    ) -> None:
        self.feed, self.steps = feed, steps[begin:end]
        later = [s for s in steps[end:] if s.tower == "language" and s.chain is not steps[begin].chain]
        blocks = [feed.blocks[step.block.name] for step in self.steps]

        def record(batch: Batch, perturb: bool = False) -> Record:
            return capture(
                partial(feed.forward, batch),
                blocks,
                feed.activations.keep,
                [step.stand_in for step in self.steps[: len(blocks)]],
                # A tower may be called once an image, so its last block's return says little.
                until=feed.blocks[later[0].block.name] if later else None,
                once=not later and all(step.calls == 1 for step in steps[begin:end]),
                perturb=perturb,
            )

        first = record(batches[0])
        if len(blocks) > 1:
            alone = independent(first, record(batches[0], perturb=True))
            blocks = blocks[: least(alone, feed.device)]
        self.records = [first, *(record(batch) for batch in batches[1:])]
        self.steps = self.steps[: least(linked_alike(self.records, len(blocks)), feed.device)]

    def turns(self, wanted: set[str]) -> Generator[Turn]:
        lender = self.feed.lender
        outputs: list[list[Any]] = [[] for _ in self.records]
        for i, step in enumerate(self.steps):
            block = self.feed.blocks[step.block.name]
            calls = [
                [call.resolve(given) for call in record[i]]
                for record, given in zip(self.records, outputs, strict=True)
            ]
            outputs = []
            for record in self.records:
                record[i] = []
            lender.bring(block)
            turn = Turn(step, block, calls, self.feed.activations)
            del calls
            goes_on = i + 1 < len(self.steps)
            is_wanted = bool(wanted & set(step.block.linears))
            try:
                if goes_on:
                    lender.expect(self.feed.blocks[self.steps[i + 1].block.name])
                if is_wanted:
                    yield turn
                if goes_on and any(call.linked() for record in self.records for call in record[i + 1]):
                    outputs = turn.outputs or turn.give()
                    turn.outputs = None
                else:
                    outputs = [[] for _ in self.records]
            finally:
                lender.take_home(block, changed=is_wanted)
