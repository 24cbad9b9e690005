"""How zeros may lie in one weight: `Unstructured(0.5)` or `NM(2, 4)`."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from ressa.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

Scope = Literal["row", "layer"]


@dataclass(frozen=True)
class Unstructured:
    """A share of zeros anywhere: the same number in every output row, or compared over the whole layer.

    sparsity: share of zeros, 0 ≤ sparsity < 1. scope: "row" makes round(sparsity · in) zeros in each of the
    `out` rows, "layer" round(sparsity · out · in) in all; halves round upwards.
    """

    sparsity: float
    scope: Scope = "row"

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise UsageError(
                f"A sparsity of {self.sparsity} cannot be had: give a share of zeros from 0 up to, "
                "not including, 1, such as 0.5 or 50%."
            )
        if self.scope not in get_args(Scope):
            raise UsageError(f"There is no scope '{self.scope}': use 'row' or 'layer'.")

    def __str__(self) -> str:
        return str(self.sparsity) if self.scope == "row" else f"{self.sparsity}@{self.scope}"

    def check_shape(self, shape: Sequence[int]) -> None:
        """Every (out, in) shape will do. Raises UsageError for anything that is not a matrix."""
        _check_matrix(shape)

    def zeros(self, shape: Sequence[int]) -> int:
        """The exact number of zeros in a weight of this shape (out, in)."""
        rows, width = shape
        if self.scope == "row":
            return rows * nearest(self.sparsity, width)
        return nearest(self.sparsity, rows * width)

    def select(self, scores: "Tensor") -> "Tensor":
        """scores (out, in) → bool mask (out, in), True where kept; of equal scores the lower index stays.

        Raises RunError if a score is NaN.
        """
        from ressa.sparsity.select import keep_top, keep_top_rows  # PyTorch: not needed to read a pattern

        self.check_shape(scores.shape)
        if self.scope == "row":
            width = scores.shape[1]
            return keep_top_rows(scores, width - nearest(self.sparsity, width))
        return keep_top([scores], scores.numel() - self.zeros(scores.shape))[0]

    def verify(self, mask: "Tensor") -> bool:
        """Whether a mask (out, in) has at least the asked zeros in every row (or in the layer)."""
        if self.scope == "row":
            return bool(((~mask).sum(1) >= nearest(self.sparsity, mask.shape[1])).all())
        return int((~mask).sum()) >= self.zeros(mask.shape)

    def verify_packed(self, packed: "Tensor", width: int) -> bool:
        """`verify` of a packed mask: uint8 (out, ceil(width / 8))."""
        from ressa.sparsity.mask import count_packed_rows

        kept = count_packed_rows(packed)
        if self.scope == "row":
            return bool((width - kept >= nearest(self.sparsity, width)).all())
        return len(kept) * width - int(kept.sum()) >= self.zeros((len(kept), width))


@dataclass(frozen=True)
class NM:
    """N:M sparsity: of every m consecutive inputs of one output row, n are kept. 0 < n < m."""

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 0 < self.n < self.m:
            raise UsageError(
                f"A pattern of {self.n}:{self.m} cannot be had: N:M keeps N of every M weights, "
                "so N must be at least 1 and less than M, such as 2:4."
            )

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    @property
    def sparsity(self) -> float:
        """The share of zeros."""
        return 1 - self.n / self.m

    def check_shape(self, shape: Sequence[int]) -> None:
        """Raises UsageError unless m divides the number of inputs of a weight (out, in)."""
        _, width = _check_matrix(shape)
        if width % self.m:
            raise UsageError(
                f"The pattern {self} does not fit a layer with {width} inputs: {width} is not a multiple "
                f"of {self.m}, so choose an M that divides it or leave that layer dense."
            )

    def zeros(self, shape: Sequence[int]) -> int:
        """The exact number of zeros in a weight of this shape (out, in)."""
        rows, width = shape
        return rows * (width // self.m) * (self.m - self.n)

    def select(self, scores: "Tensor") -> "Tensor":
        """scores (out, in) → bool mask (out, in), True where kept; of equal scores the lower index stays.

        Raises UsageError if m does not divide `in`, RunError if a score is NaN.
        """
        from ressa.sparsity.select import keep_top_groups

        self.check_shape(scores.shape)
        return keep_top_groups(scores, self.n, self.m)

    def verify(self, mask: "Tensor") -> bool:
        """Whether at most n are kept in every group of m of a mask (out, in)."""
        if mask.shape[1] % self.m:
            return False
        if mask.device.type == "cpu" and 8 % self.m == 0:
            from ressa.sparsity.mask import pack_mask

            return self.verify_packed(pack_mask(mask), mask.shape[1])
        return bool((mask.reshape(-1, self.m).sum(1) <= self.n).all())

    def verify_packed(self, packed: "Tensor", width: int) -> bool:
        """`verify` of a packed mask: uint8 (out, ceil(width / 8))."""
        from ressa.sparsity.mask import any_group_over, unpack_mask

        if width % self.m:
            return False
        if 8 % self.m == 0:
            return not any_group_over(packed, self.n, self.m)
        return self.verify(unpack_mask(packed, width))


Pattern = Unstructured | NM


def nearest(share: float, total: int) -> int:
    """share · total rounded to the nearest whole number, halves upwards."""
    return math.floor(share * total + 0.5)


def parse_pattern(text: str | float, *, scope: Scope = "row") -> Pattern:
    """Read "2:4", "0.5", "50%", "0.5@layer" or 0.5; `scope` holds where the text names none.

    Raises UsageError for anything else. `parse_pattern(str(pattern)) == pattern` for every pattern.
    """
    words = str(text).strip()
    if groups := re.fullmatch(r"(\d{1,9})\s*:\s*(\d{1,9})", words):
        return NM(int(groups[1]), int(groups[2]))
    if share := re.fullmatch(r"([0-9.]+(?:[eE][-+]?\d+)?)\s*(%?)\s*(?:@\s*(\w+))?", words):
        try:
            value = float(share[1])
        except ValueError:
            pass
        else:
            named: Scope = share[3] or scope  # type: ignore[assignment]  # Unstructured refuses other names
            return Unstructured(value / 100 if share[2] else value, named)
    raise UsageError(
        f"'{words[:40]}' is not a pattern: write N:M such as 2:4, or a share of zeros such as 0.5 or 50%."
    )


def _check_matrix(shape: Sequence[int]) -> tuple[int, int]:
    if len(shape) != 2:
        raise UsageError(f"A pattern needs a weight of shape (out, in), not one of {len(shape)} dimensions.")
    rows, width = shape
    return rows, width
