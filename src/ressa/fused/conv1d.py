"""GPT-2's `Conv1D`, a linear whose weight is stored (in, out), as a plain linear."""

import sys

from torch import Tensor, nn

from ressa.fused.part import Part
from ressa.fused.stand_in import Split, Views


def splits(module: nn.Module) -> bool:
    """Whether it is one; where transformers' module was never imported there is none."""
    known = sys.modules.get("transformers.pytorch_utils")
    return known is not None and isinstance(module, known.Conv1D)


class SplitConv1D(Split):
    """One linear, `linear`."""

    def __init__(self, original: nn.Module, views: Views) -> None:
        super().__init__(original, views)
        weight, bias = Part("weight", transposed=True), Part("bias")
        self.linear = self.make(weight, bias)
        self.named("linear", weight, bias)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) → (..., out)."""
        return self.linear(x)
