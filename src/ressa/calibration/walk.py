"""Calibration block by block, in the order data flows, each block fed by its already pruned predecessors.

In a block's turn (`turns.py`) it runs once with hooks that feed statistics, then `visit` prunes it in place.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from ressa.anatomy import Anatomy, Block
from ressa.calibration.capture import Stop, leaves
from ressa.calibration.experts import expert_groups
from ressa.calibration.feed import Batch, Feed
from ressa.calibration.lending import Shelf
from ressa.calibration.padding import Kept, image_positions
from ressa.calibration.statistics import Statistics
from ressa.calibration.tokens import VisualDistance, select_tokens
from ressa.calibration.turns import Turn, turns
from ressa.errors import UsageError
from ressa.processes import least

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
    shelf: Shelf | None = None,
    pass_by: bool = False,
    spill: Path | None = None,
) -> None:
    """Call `visit(block, statistics)` for every block, in the order a forward calls them.

    batches: model inputs, as the model's forward takes them. visit: may change the block's weights in place;
    it is given the statistics of those linears for which `statistics(name, linear)` made one; linears that are
    given the same tensor, such as q, k and v, share one object. device: where a
    block computes (default: where it lives); elsewhere it is moved there for its turn and back. layers: only
    these linears, and the blocks that hold them, are visited (default: all). atv: count all text tokens but
    only the image tokens that a block changes most (arXiv 2603.16001); the number is the paper's α. shelf: where
    the weights lie if they are to be in memory only for their block's turn; `visit` puts changed ones there.

    Padding is left out of the statistics, image tokens count like any other. Only one block's statistics
    exist at a time. Raises UsageError if the calibration inputs never reach one of the layers; with pass_by, it is
    not among the statistics instead, or its block has no turn. spill: the folder for activations that fit into no
    memory (default: the system's for temporary files).
    """
    feed = Feed(model, anatomy, device, shelf, spill)
    wanted = set(anatomy.linears() if layers is None else layers)
    with feed.ready():
        steps = feed.steps(batches[0])
        reached = {name for step in steps for name in step.block.linears}
        unreached = [name for name in anatomy.linears() if name in wanted - reached]
        if unreached and not pass_by:
            raise never_reached(unreached)
        with closing(turns(feed, batches, steps, wanted)) as found:
            for turn in found:
                names = [name for name in turn.step.block.linears if name in wanted]
                visit(turn.step.block, _gather(feed, batches, turn, names, statistics, atv, pass_by))


def _gather(
    feed: Feed,
    batches: Sequence[Batch],
    turn: Turn,
    names: Sequence[str],
    statistics: Factory,
    atv: float | None,
    pass_by: bool,
) -> dict[str, Statistics]:
    """Statistics of the inputs of the linears of one block."""
    linears = {name: feed.modules[name] for name in names}
    chosen = {} if atv is None else _choose_tokens(feed, batches, turn, atv)
    for share in (True, False):
        found: dict[str, Statistics] | None = None
        with suppress(_Apart):
            found = _Inputs(linears, statistics, share, pass_by).gather(batches, turn, chosen)
        if least(found is not None, turn.device) and found is not None:
            return found
    raise AssertionError("nothing is shared, so nothing can come apart")


class _Apart(Exception):
    """Linears that shared an input in one call do not in another."""


class _Inputs:
    """Hands the inputs of one block's linears to their statistics, call after call."""

    def __init__(
        self, linears: Mapping[str, nn.Linear], statistics: Factory, share: bool, pass_by: bool
    ) -> None:
        self.linears, self.statistics, self.share, self.pass_by = linears, statistics, share, pass_by
        self.found: dict[str, Statistics | None] = {}
        self.giver: dict[str, str] = {}  # linear → the one before it that is given the same tensor
        self.before: tuple[str, Tensor, int] | None = None  # the last giver, its input, that input's version
        self.kept: Kept | None = None
        self.first = True
        self.order: list[str] = []  # in which the first call reached the linears
        self.reached: set[str] = set()  # in the present call

    def gather(
        self, batches: Sequence[Batch], turn: Turn, chosen: Mapping[tuple[int, int], Tensor]
    ) -> dict[str, Statistics]:
        """chosen: (batch, call) → bool (batch, length), the positions to count instead of all but padding."""
        with ExitStack() as hooks:
            for name, linear in self.linears.items():
                hook = linear.register_forward_pre_hook(lambda _m, args, name=name: self._take(name, args[0]))
                hooks.callback(hook.remove)
            for number, (b, c, call) in enumerate(turn.ready_calls()):
                self.kept = turn.kept(call, batches[b])
                if (b, c) in chosen:
                    self.kept.positions = chosen[b, c]
                self.first = number == 0
                self.before = None
                self.reached.clear()
                with suppress(Stop):
                    turn.block(*call.args, **call.kwargs)
        self.before = self.kept = None
        self._complete(turn)
        unreached = [name for name in self.linears if name not in self.found]
        missing = [name for name in unreached if self.statistics(name, self.linears[name]) is not None]
        if missing and not self.pass_by:
            raise never_reached(missing)
        return {name: made for name in self.linears if (made := self.found.get(name)) is not None}

    def _complete(self, turn: Turn) -> None:
        """Experts that no token was routed to get empty statistics, shared as those of the others are."""
        given: dict[str, Statistics | None] = {}  # input of an expert's linears → what is known of it
        for name in expert_groups(turn.block, turn.step.block.name):
            if name in self.linears and name not in self.found:
                expert, _, own = name.rpartition(".")
                given_as = own if own == "down_proj" or not self.share else ""
                self.found[name] = given.setdefault(
                    f"{expert}.{given_as}", self.statistics(name, self.linears[name])
                )

    def _take(self, name: str, x: Tensor) -> None:
        giver = self._giver(x) if self.share else None
        if name not in self.found:
            made = self.statistics(name, self.linears[name])
            if giver is not None and type(made) is type(self.found[giver]):
                made, self.giver[name] = self.found[giver], giver
            self.found[name] = made
        elif name in self.giver and giver != self.giver[name]:
            raise _Apart
        if name not in self.giver:
            self.before = name, x, x._version
            if (statistic := self.found[name]) is not None:
                statistic.update(*((x, None) if self.kept is None else self.kept.split(x)))
        if self.first:
            self.order.append(name)
        self.reached.add(name)
        # What a block makes of its last linear's output is of no interest here.
        everything = len(self.reached) == len(self.order) == len(self.linears)
        if not self.first and name == self.order[-1] and everything:
            raise Stop

    def _giver(self, x: Tensor) -> str | None:
        if self.before is None:
            return None
        name, before, version = self.before
        return name if x is before and x._version == version else None


def _choose_tokens(
    feed: Feed, batches: Sequence[Batch], turn: Turn, alpha: float
) -> dict[tuple[int, int], Tensor]:
    """Positions that count by the distance between a block's input and output: (batch, call) → bool
    (batch, length). Empty for blocks that do not see text and image together."""
    if turn.step.tower != "language" or turn.step.chain.reads_labels:
        return {}
    distance = VisualDistance()
    seen: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor, Tensor | None]] = {}
    for b, batch in enumerate(turn.calls):
        visual = image_positions(feed.model, batches[b])
        for c, call in enumerate(batch):
            kept = turn.kept(call, batches[b])
            states = kept.hidden
            if states is None or visual is None or visual.shape != states.shape[:2]:
                raise UsageError(
                    f"'{turn.step.block.name}' sees no image tokens that input_ids mark, so none can be "
                    "chosen among them: leave the choice of tokens at its default."
                )
            out = turn.run(call)
            output = next(leaf for _, leaf in leaves(out) if getattr(leaf, "shape", None) == states.shape)
            output = output.to(states.device).flatten(2)  # where a token has several streams, all of them
            seen[b, c] = (states.flatten(2), output, visual.to(states.device), kept.positions)
            distance.update(*seen[b, c])
    distance.all_reduce(next(turn.block.parameters()).device)
    return {place: select_tokens(*what, alpha, distance.mean()) for place, what in seen.items()}


def never_reached(layers: Sequence[str]) -> UsageError:
    """What is said of layers whose inputs are not known."""
    more = f" and {len(layers) - 1} more" if len(layers) > 1 else ""
    return UsageError(
        f"Calibration never reaches the layer '{layers[0]}'{more}, so nothing is known of its inputs: leave "
        "it out of the plan, give calibration samples that use it, or choose a method that needs none."
    )
