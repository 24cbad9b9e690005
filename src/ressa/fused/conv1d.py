"""GPT-2's `Conv1D`, a linear whose weight is stored (in, out), as a plain linear."""

from torch import Tensor
from transformers.pytorch_utils import Conv1D

from ressa.fused.part import Part, Split, Views


class SplitConv1D(Split):
    """One linear, `linear`."""

    def __init__(self, original: Conv1D, views: Views) -> None:
        super().__init__(original, views)
        weight, bias = Part("weight", transposed=True), Part("bias")
        self.linear = self.make(weight, bias)
        self.named("linear", weight, bias)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) → (..., out)."""
        return self.linear(x)
