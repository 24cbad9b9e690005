"""Retrieval's recall at k, both ways."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import torch
from torch import Tensor

KS = (1, 5, 10)


@dataclass(frozen=True)
class Rank:
    """Where the best of the right ones stands among all: how many are better, how many equal it (with it), and how
    many of these are right ones."""

    better: int
    equal: int = 1
    right: int = 1

    def within(self, k: int) -> float:
        """The chance that a right one is among the first k, equals in any order: 0 or 1 where there are none."""
        free = min(max(k - self.better, 0), self.equal)
        return 1 - comb(self.equal - self.right, free) / comb(self.equal, free)


def ranks(scores: Tensor, own: Tensor) -> list[Rank]:
    """The rank of each row. scores: (rows, candidates), higher is better; own: bool, likewise, at least one a row."""
    best = scores.masked_fill(~own, -torch.inf).amax(1, keepdim=True)
    equal = scores == best
    counts = torch.stack([(scores > best).sum(1), equal.sum(1), (equal & own).sum(1)], 1)
    return [Rank(*row) for row in counts.tolist()]


def recall_at(found: Sequence[Rank], k: int) -> float:
    """The share of rows that have a right one among the first k, in [0, 1]."""
    return sum(rank.within(k) for rank in found) / len(found)


def owners(image_of: Tensor, images: int) -> Tensor:
    """bool (images, captions): which caption is whose. image_of: (captions,) the image of each."""
    return image_of[None, :] == torch.arange(images, device=image_of.device)[:, None]
