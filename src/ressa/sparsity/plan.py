"""A plan: which pattern each layer gets. A layer that is absent stays dense."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ressa.errors import UsageError
from ressa.sparsity.pattern import Pattern, Unstructured, parse_pattern

if TYPE_CHECKING:
    from torch import Tensor


class Plan(Mapping[str, Pattern]):
    """Layer name → pattern, read-only, in the order given."""

    def __init__(self, patterns: Mapping[str, Pattern]) -> None:
        self._patterns = dict(patterns)

    def __getitem__(self, layer: str) -> Pattern:
        return self._patterns[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self._patterns)

    def __len__(self) -> int:
        return len(self._patterns)

    def __repr__(self) -> str:
        return f"Plan({self.to_dict()})"

    def check(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """shapes: layer name → (out, in). Raises UsageError, naming the layer, if the plan has one that is
        not among them or a pattern that does not fit its shape."""
        for layer, pattern in self.items():
            if layer not in shapes:
                raise UsageError(
                    f"The plan names a layer '{layer}' that this model does not have: make a new plan."
                )
            try:
                pattern.check_shape(shapes[layer])
            except UsageError as error:
                raise UsageError(f"{layer}: {error}") from None

    def to_dict(self) -> dict[str, str]:
        """Layer name → pattern as text: what JSON can hold."""
        return {layer: str(pattern) for layer, pattern in self.items()}

    @classmethod
    def from_dict(cls, texts: Mapping[str, str]) -> "Plan":
        """The inverse of `to_dict`. Raises UsageError for a text that is no pattern."""
        return cls({layer: parse_pattern(text) for layer, text in texts.items()})


def global_plan(scores: Mapping[str, "Tensor"], sparsity: float) -> Plan:
    """One threshold over all layers' scores, as a plan: each layer gets the share of zeros that falls to it.

    scores: layer name → scores (out, in). Selecting by the same scores under this plan gives
    `select_global`'s masks, so a global comparison needs no path of its own through pruning.
    """
    from ressa.sparsity.select import select_global  # PyTorch: not needed to read a plan

    masks = select_global(scores, sparsity)
    just_below_one = math.nextafter(1.0, 0.0)  # a layer that loses every weight: still rounds to all zeros
    shares = {layer: int((~mask).sum()) / mask.numel() for layer, mask in masks.items()}
    return Plan({layer: Unstructured(min(share, just_below_one), "layer") for layer, share in shares.items()})
