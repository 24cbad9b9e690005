"""Packed layers that read the same input are computed in one call: a GPU is busier with one tall weight than with
several low ones, a row of whose work it cannot fill, and each of which it must be told about."""

from collections.abc import Sequence
from threading import Lock
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ressa.runtime.prepared import PreparedWeight

if TYPE_CHECKING:
    from ressa.runtime.linear import PackedLinear

NAMES = (
    ("q_proj", "k_proj", "v_proj"), ("query", "key", "value"), ("q", "k", "v"), ("to_q", "to_k", "to_v"),
    ("wq", "wk", "wv"), ("q_lin", "k_lin", "v_lin"), ("gate_proj", "up_proj"), ("w1", "w3"), ("wi_0", "wi_1"),
    ("fc1_g", "fc1_x"),
)  # fmt: skip
"""What layers of one module are called that mostly read the same input. Where they do not (cross-attention), that
shows in the first call."""
_STACKING = Lock()  # layers are prepared by several threads


class Siblings:
    """Some layers of one module. As soon as all of them are prepared alike their weights are stacked. Whichever is
    then called first computes what all of them make of its input, and each of the others, called with that input
    next, takes its part.

    If one is called with another input while parts are waiting, they are no siblings: each computes its own from
    then on.
    """

    def __init__(self, layers: Sequence["PackedLinear"]) -> None:
        self.layers = tuple(layers)
        ends = torch.tensor([layer.out_features for layer in layers]).cumsum(0).tolist()
        self._rows = tuple(zip([0, *ends], ends, strict=False))
        self._apart = False
        self._waiting: tuple[Tensor, dict[int, Tensor]] | None = None
        self.stacked: PreparedWeight | None = None
        self._bias: Tensor | None = None
        for place, layer in enumerate(layers):
            layer.siblings, layer.place = self, place

    def stack(self) -> None:
        """Stack the weights if all are prepared for the same device, and in a form that stacks."""
        with _STACKING:
            weights = [layer.prepared for layer in self.layers]
            self.stacked = self._waiting = None
            kinds = {(type(w), w.weight.device, w.weight.dtype) for w in weights if w is not None}
            if self._apart or None in weights or len(kinds) != 1:
                return
            ((kind, _, _),) = kinds
            self.stacked = kind.stack([weight for weight in weights if weight is not None])
            biases = [layer.bias for layer in self.layers]
            self._bias = None
            if self.stacked is not None and any(bias is not None for bias in biases):
                like = self.stacked.weight
                self._bias = torch.cat(
                    [
                        like.new_zeros(layer.out_features) if layer.bias is None else layer.bias.detach()
                        for layer in self.layers
                    ]
                )
            if self.stacked is not None and self.stacked.weight.is_cuda:
                torch.cuda.synchronize(self.stacked.weight.device)  # as in `PackedLinear.prepare`

    def linear(self, place: int, x: Tensor) -> Tensor | None:
        """What the layer in this place makes of x; None where it has to do so on its own."""
        if self.stacked is None or (torch.is_grad_enabled() and x.requires_grad):
            return None
        waiting = self._waiting
        if waiting is None:
            y = self.stacked.linear(x, self._bias)
            waiting = (x, {other: y[..., begin:end] for other, (begin, end) in enumerate(self._rows)})
            self._waiting = waiting
        there, parts = waiting
        if there is not x or place not in parts:
            self.stacked, self._waiting, self._apart = None, None, True
            return None
        mine = parts.pop(place)
        if not parts:
            self._waiting = None
        return mine
