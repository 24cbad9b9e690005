"""Which positions of a linear's input count towards statistics: all but padding.

A block says itself what is padding: its attention mask leaves out the keys that no position may attend to.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ressa.calibration.capture import Call
from ressa.fused import ROWS, Rows


class Kept:
    """Which positions count, for the inputs of all linears within one call of one block.

    attention_mask: (batch, length), of the model's inputs, for blocks that are given no mask of their own, or one in
    which padding attends to itself. labels: (batch, length), -100 where there is none, for the decoder of an
    encoder-decoder model. reads_text: whether the block's states may be those of the model's words.
    Positions are told by length, whichever axis has it, and, where a block works on a part of its hidden states (a
    Q-Former on its queries, experts of one kind of token), by the slice or the marks that the part is. Inputs of
    unknown origin count as a whole.
    """

    def __init__(
        self,
        block: nn.Module,
        call: Call,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        reads_text: bool = True,
    ) -> None:
        arguments = _arguments(block, call)
        states = _states(arguments) or _words(arguments, attention_mask)
        reads_text |= bool(states) and not states[0].is_floating_point()
        words = attention_mask if reads_text else None
        self.words = None if words is None else words.shape
        self.hidden = self._tokens_first(states[0]) if states else None
        self.others = states[1:]
        self.positions: Tensor | None = None  # bool (batch, length) of the hidden states; None keeps all
        self.keys: dict[int, Tensor] = {}  # number of keys → bool (batch, keys), of what is attended to
        self.spans: dict[int, int] = {}  # length of a part → where in the hidden states it begins
        self.kinds: list[Tensor] = []  # bool (batch, length): marks of the hidden states, such as of images
        if self.hidden is None:
            return
        batch, length = self.hidden.shape[:2]
        for name, tensor in arguments.items():
            if tensor.shape == (batch, length) and "type" in name:
                self.kinds += [tensor == 0, tensor != 0]
            if "mask" not in name or (attended := _attended(name, tensor, batch)) is None:
                continue
            if attention_mask is not None and _opposite(attended, attention_mask):
                attended = ~attended  # Grounding-DINO marks padding
            crossed = "encoder" in name or "cross" in name
            both = attended.shape[1] - length
            if not crossed and both == 0:
                self.positions = attended
            elif any(other.shape[1] == both for other in self.others):  # one mask for both, its own first
                self.keys[both] = attended[:, length:]
            else:
                count = attended.shape[1]
                self.keys[count] = attended & self.keys.get(count, attended)
        for told in (words, None if labels is None else labels != -100):
            if told is not None and told.shape == (batch, length):
                real = told.bool().to(self.hidden.device)
                self.positions = real if self.positions is None else self.positions & real
        if self.positions is not None:  # where there is no padding, nothing need be picked out
            self.positions = None if self.positions.all() else self.positions

    def split(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """A linear's input as (batch, length, …, in) again where the block flattened it, and which of its
        positions count: bool of the shape before `in`, or None for all."""
        if (
            self.hidden is not None
            and x.dim() == 2
            and len(x) == self.hidden.shape[:2].numel() != len(self.hidden)
        ):
            x = x.reshape(*self.hidden.shape[:2], -1)
        x = self._tokens_first(x)
        return x, self._positions(x)

    def _tokens_first(self, x: Tensor) -> Tensor:
        """Streams that stand before the batch (Gemma 3n) behind the tokens: (streams, batch, length, width) → (batch,
        length, streams, width), a view."""
        turned = x.dim() == 4 and x.shape[1:3] == self.words != x.shape[:2]
        return x.movedim(0, 2) if turned else x

    def _positions(self, x: Tensor) -> Tensor | None:
        rows: Rows | None = getattr(x, ROWS, None)
        if rows is not None:
            return self._of_expert(rows)
        if self.hidden is None or x.dim() < 3 or len(x) != len(self.hidden):
            return None
        batch, length = self.hidden.shape[:2]
        axis = next((axis for axis in range(1, x.dim() - 1) if x.shape[axis] == length), 1)
        n = x.shape[axis]
        if any(x is other for other in self.others):
            kept = self.keys.get(n)
        elif n == length:
            kept = self.positions
        else:
            if x.stride(1) and x.stride(0) == length * x.stride(1):  # a slice of something that long
                self.spans[n] = x.storage_offset() // x.stride(1) % length
            begin = self.spans.get(n)
            if begin is None:
                kept = self.keys.get(n)
            else:
                kept = None if self.positions is None else self.positions[:, begin : begin + n]
        if kept is None:
            return None
        along = [n if each == axis else 1 for each in range(1, x.dim() - 1)]
        return kept.reshape(batch, *along).expand(x.shape[:-1])

    def _of_expert(self, rows: Rows) -> Tensor | None:
        """An expert's share of the tokens, or of those of a kind; two kinds that are equally many cannot be told
        apart, and count as a whole."""
        if self.positions is None:
            return None
        if rows.total == self.positions.numel():
            among = self.positions.flatten()
        else:
            kinds = [kind for kind in self.kinds if int(kind.sum()) == rows.total]
            if len(kinds) != 1:
                return None
            among = self.positions[kinds[0].to(self.positions.device)]
        return among[rows.numbers.to(among.device)]


def _states(arguments: Mapping[str, Tensor]) -> list[Tensor]:
    """The hidden states that a block is called with, its own first: (batch, length, width), or, where a token has
    several streams, (batch, length, streams, width)."""
    floating = {name: each for name, each in arguments.items() if each.is_floating_point()}
    states = [each for each in floating.values() if each.dim() == 3]
    first = next(iter(floating.items()), None)
    if first is not None and first[1].dim() == 4 and "mask" not in first[0]:
        states.insert(0, first[1])
    return states


def _opposite(attended: Tensor, attention_mask: Tensor) -> bool:
    """Whether a mask is what the model's own is not."""
    mine = attention_mask.to(attended.device).bool()
    return attended.shape == mine.shape and torch.equal(attended, ~mine)


def _words(arguments: Mapping[str, Tensor], attention_mask: Tensor | None) -> list[Tensor]:
    """The words that a block is called with (batch, length), where it embeds them itself (Gemma 3n, NeoMME)."""
    if attention_mask is None:
        return []
    whole = (each for each in arguments.values() if not each.is_floating_point())
    return [each for each in whole if each.dtype != torch.bool and each.shape == attention_mask.shape][:1]


def _arguments(block: nn.Module, call: Call) -> dict[str, Tensor]:
    """The tensors a block is called with, by the names of its parameters and in their order.

    A decorator may accept names that the function does not have, such as older ones: they stand at the end.
    """
    parameters = inspect.signature(block.forward).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    names += [f"argument{number}" for number in range(len(names), len(call.args))]
    named = dict(zip(names, call.args, strict=False)) | call.kwargs
    in_order = [name for name in names if name in named]
    return {
        name: named[name] for name in dict.fromkeys([*in_order, *named]) if isinstance(named[name], Tensor)
    }


def _attended(name: str, mask: Tensor, batch: int) -> Tensor | None:
    """bool (batch, keys): the keys that some position may attend to; None if this is no attention mask.

    mask: (batch, keys), (batch, queries, keys) or (batch, heads, queries, keys); bool or integer: true where
    attended, or, called as PyTorch calls it, where padding is; float: added to the scores, so hugely negative where
    nothing attends.
    """
    if mask.dim() not in (2, 3, 4) or mask.shape[0] not in (1, batch):
        return None
    if mask.is_floating_point():
        # Some families add -10000 or half of the smallest number: nothing that attends is anywhere near.
        allowed = mask > -1000
        if mask.dim() == 2 and not (mask < 0).any():
            allowed = mask > 0
    else:
        allowed = mask == 0 if name == "key_padding_mask" else mask != 0
    allowed = allowed.flatten(1, -2).any(1) if mask.dim() > 2 else allowed
    return allowed.expand(batch, -1)


def image_positions(model: Any, batch: Mapping[str, Tensor]) -> Tensor | None:
    """bool (batch, length): where an image token stands among the inputs; None for a model without such."""
    ids = batch.get("input_ids")
    for name in ("image_token_id", "image_token_index"):
        token = getattr(model.config, name, None)
        if ids is not None and token is not None and (found := ids == token).any():
            return found
    return None
