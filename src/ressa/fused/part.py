"""Where a plain linear's weight lies within a fused parameter."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Part:
    """A linear's weight (out, in) as a part of a fused parameter, or its bias (out,) likewise.

    parameter: the fused parameter's name. index: which of its first dimension (an expert), None where there is no such
    dimension. rows: start, stop and step of the outputs within it. transposed: it is stored (in, out).
    """

    parameter: str
    index: int | None = None
    rows: tuple[int, int, int] | None = None
    transposed: bool = False

    def of(self, fused: "Tensor") -> "Tensor":
        """The part, a view."""
        found = fused if self.index is None else fused[self.index]
        if self.transposed and found.dim() == 2:
            found = found.T
        return found if self.rows is None else found[slice(*self.rows)]
