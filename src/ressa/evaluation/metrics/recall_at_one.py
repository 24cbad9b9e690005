"""Retrieval recall at 1, both ways."""

from typing import NamedTuple

import torch
from torch import Tensor


class RecallAtOne(NamedTuple):
    """In [0, 1]. `text`: images whose best caption is theirs; `image`: captions with their best image."""

    text: float
    image: float


def recall_at_one(scores: Tensor, image_of: Tensor) -> RecallAtOne:
    """TR@1 and IR@1 from all pairs' scores; equal best scores share the hit.

    Args:
        scores: (images, captions), higher is better.
        image_of: (captions,) index of the image that each caption belongs to.
    """
    own = image_of[None, :] == torch.arange(len(scores), device=image_of.device)[:, None]
    return RecallAtOne(_hits(scores, own, 1), _hits(scores, own, 0))


def _hits(scores: Tensor, own: Tensor, over: int) -> float:
    best = scores == scores.amax(over, keepdim=True)
    return ((best & own).sum(over).double() / best.sum(over)).mean().item()
