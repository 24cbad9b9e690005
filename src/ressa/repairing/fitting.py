"""The inner loop of reconstruction: one block learns to give what the dense block gives.

On a GPU nothing in it waits for the host: examples lie on the GPU as long as they fit, the next one is on its way where
they do not, and errors are summed there.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ressa.calibration.capture import Call, leaves, map_leaves
from ressa.calibration.feed import Batch
from ressa.calibration.turns import Turn
from ressa.fast_dtype import means_bf16
from ressa.repairing.config import RepairConfig
from ressa.repairing.weights import Masks, restored, weight_of

CHANGE = 0.5  # of an output, at most, by one step
TIMED = 2  # the step that is timed: the first one sets things up


class Example(NamedTuple):
    """How a block is called, what it should give (batch, length, width), and where that counts: bool (batch, length),
    or None for everywhere."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    target: Tensor
    counts: Tensor | None


class Examples:
    """Every call of a block: inputs from the blocks before it as they are now, and what the dense block gives."""

    def __init__(self, turn: Turn, wanted: Turn, batches: Sequence[Batch]) -> None:
        """turn, wanted: of the block and of the dense block, which gives its outputs now."""
        self.activations, self.device = turn.activations, turn.device
        self.calls: list[Call] = []
        self.counts: list[Tensor | None] = []
        for batch, calls, outputs in zip(batches, turn.calls, wanted.give(), strict=True):
            for call, output in zip(calls, outputs, strict=True):
                counts = turn.kept(call, batch).positions
                self.calls.append(Call((call.args, hidden(output)), call.kwargs))
                self.counts.append(None if counts is None else counts.to(self.device))

    def __len__(self) -> int:
        return len(self.calls)

    def each(self, order: Sequence[int]) -> Iterator[Example]:
        """Fresh copies where the block computes, by number; the next is on its way while one is used."""
        for place, number in enumerate(order):
            here = self.activations.fetch(self.calls[number], self.device)
            if place + 1 < len(order):
                self.activations.expect(self.calls[order[place + 1]], self.device)
            args, target = here.args
            yield Example(args, here.kwargs, target, self.counts[number])


def fit(
    model: nn.Module,
    block: nn.Module,
    layers: Sequence[str],
    masks: Masks,
    examples: Examples,
    config: RepairConfig,
    generator: torch.Generator,
    announce: Callable[[float], None] | None = None,
) -> tuple[float, float]:
    """Train the kept weights of a block's layers, held in float32; AdamW, cosine to a tenth of the rate, which is the
    config's or each layer's own (`relative_rate`). Where examples are held out, the weights of the epoch that is best
    on these are kept, and only these tell the errors.

    masks: of those layers that are pruned. Their dropped weights are zero and get no gradient, so they stay zero.
    announce: is told, once, how many seconds a step takes.

    Returns ‖y − y_dense‖² / ‖y_dense‖² before and after, means over the examples. Where training brings the block no
    nearer, it keeps its weights, and the error is what it was; not finite where training diverged.
    """
    with restored(block):
        block.float().to(examples.device).requires_grad_(False)
        bf16 = means_bf16(config.precision, examples.device, model)
        weights = [weight_of(model, name).requires_grad_(True) for name in layers]
        hooks = [_keep_zeros(weight_of(model, name), mask) for name, mask in masks.items()]
        rates = [config.reconstruct_rate or relative_rate(weight) for weight in weights]
        groups = [{"params": [weight], "lr": rate} for weight, rate in zip(weights, rates, strict=True)]
        fused = examples.device.type in ("cpu", "cuda") or None
        optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=fused)
        learned, judged = divided(len(examples), config.reconstruct_held_out)
        total = config.reconstruct_epochs * len(learned)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _cosine(step / total))
        best = [weight.detach().clone() for weight in weights]
        before = least = _mean_error(block, examples, judged, bf16)
        watch = _Watch(examples.device, announce)
        try:
            with torch.enable_grad():
                for epoch in range(config.reconstruct_epochs):
                    order = torch.randperm(len(learned), generator=generator).tolist()
                    for example in examples.each([learned[place] for place in order]):
                        error(block, example, bf16).backward()
                        if config.max_grad_norm:
                            nn.utils.clip_grad_norm_(weights, config.max_grad_norm)
                        optimizer.step()
                        optimizer.zero_grad()
                        schedule.step()
                        watch.step()
                    if config.reconstruct_held_out or epoch + 1 == config.reconstruct_epochs:
                        with torch.no_grad():
                            after = _mean_error(block, examples, judged, bf16)
                            if after <= least:
                                least = after
                                torch._foreach_copy_(best, weights)
        finally:
            for hook in hooks:
                hook.remove()
        for weight, kept in zip(weights, best, strict=True):
            weight.copy_(kept)
    return before, least if after < float("inf") else after


def divided(count: int, share: float) -> tuple[list[int], list[int]]:
    """Numbers of the examples to learn from and of those to judge by: every so many-th is held out, and none where
    nothing would be left; then all are both."""
    held = [number for number in range(count) if int((number + 1) * share) > int(number * share)]
    rest = sorted(set(range(count)) - set(held))
    return (rest, held) if held and rest else (list(range(count)), list(range(count)))


def relative_rate(weight: Tensor) -> float:
    """AdamW's learning rate for a layer's weight (out, in): half of the kept weights' root mean square over √in.

    A step at a rate of η moves every weight by about η, and so an output by at most η‖x‖₁ ≤ η√in·‖x‖₂; what weights
    of this size give to inputs without a pattern is rms·‖x‖₂. So no step changes an output by more than about half of
    what it is, however wide the layer and however large its weights are.
    """
    kept = weight.detach()
    rms = float(kept.square().sum() / kept.count_nonzero().clamp_min(1)) ** 0.5
    return max(CHANGE * rms / math.sqrt(weight.shape[1]), 1e-12)


def _cosine(done: float) -> float:
    """From 1 to a tenth."""
    return 0.1 + 0.9 * (1 + math.cos(math.pi * done)) / 2


def _keep_zeros(weight: nn.Parameter, mask: Tensor) -> Any:
    """No gradient for dropped weights: AdamW then leaves a zero alone, its moments and its decay being zero too."""
    dropped = ~mask.to(weight.device)

    def clear(parameter: Tensor) -> None:
        assert parameter.grad is not None
        parameter.grad.masked_fill_(dropped, 0)

    return weight.register_post_accumulate_grad_hook(clear)


def _mean_error(block: nn.Module, examples: Examples, numbers: Sequence[int], bf16: bool) -> float:
    """Of these examples; summed where it is computed, and asked for once."""
    total = torch.zeros((), device=examples.device)
    for example in examples.each(numbers):
        total += error(block, example, bf16)
    return total.item() / len(numbers)


def error(block: nn.Module, example: Example, bf16: bool) -> Tensor:
    """‖y − y_dense‖² / ‖y_dense‖² over the positions that count; the block runs under autocast where bf16."""
    args, kwargs = (map_leaves(given, _as_float32) for given in (example.args, example.kwargs))
    target = example.target.float()
    with torch.autocast(target.device.type, torch.bfloat16, enabled=bf16):
        output = hidden(block(*args, **kwargs)).float()
    difference = output - target
    if example.counts is not None:  # filled with zeros rather than left out: that would wait for the host
        padding = ~example.counts.view(*example.counts.shape, *[1] * (target.dim() - example.counts.dim()))
        difference, target = difference.masked_fill(padding, 0), target.masked_fill(padding, 0)
    return difference.square().sum() / target.square().sum().clamp_min(1e-12)


def hidden(output: Any) -> Tensor:
    """The hidden states among what a block returns: the first floating-point tensor."""
    return next(leaf for _, leaf in leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point())


def _as_float32(leaf: Any) -> Any:
    return leaf.float() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


class _Watch:
    """Times one early step and tells of it."""

    def __init__(self, device: torch.device, announce: Callable[[float], None] | None) -> None:
        self.device, self.announce = device, announce
        self.steps, self.begun = 0, 0.0

    def step(self) -> None:
        """To be called after each step."""
        if self.announce is None:
            return
        self.steps += 1
        if self.steps == TIMED - 1:
            self.begun = self._now()
        elif self.steps == TIMED:
            self.announce(self._now() - self.begun)
            self.announce = None

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
