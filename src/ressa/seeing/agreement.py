"""Maps as numbers: how alike two are, and whether one points at a place."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ressa.seeing.places import Place

Map = NDArray[np.floating[Any]]


def pearson(a: Map, b: Map) -> float | None:
    """The linear correlation of two maps of one shape; None where one of them is the same everywhere."""
    a, b = np.ravel(a) - np.mean(a), np.ravel(b) - np.mean(b)
    length = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / length if length > 0 else None


def spearman(a: Map, b: Map) -> float | None:
    """The correlation of ranks, those of equal values averaged."""
    return pearson(_ranks(a), _ranks(b))


def _ranks(values: Map) -> Map:
    _, places, counts = np.unique(np.ravel(values), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[places]


def covered(places: Sequence[Place], shape: tuple[int, int]) -> Map:
    """The part of each cell that lies in one of the boxes, at least: that of the box which covers most of it."""
    rows, columns = shape
    top, left = np.arange(rows) / rows, np.arange(columns) / columns
    part = np.zeros(shape)
    for place in places:
        down = np.minimum(place.bottom, top + 1 / rows) - np.maximum(place.top, top)
        across = np.minimum(place.right, left + 1 / columns) - np.maximum(place.left, left)
        part = np.maximum(part, np.outer(down.clip(0) * rows, across.clip(0) * columns))
    return part


def pointing(seen: Map, places: Sequence[Place]) -> dict[str, float]:
    """Whether a map points at the boxes.

    hit: 1 where the middle of the largest cell lies in one of them (the pointing game: Zhang et al., "Top-down
    Neural Attention by Excitation Backprop", ECCV 2016, §4.1, here without a margin). mass: the share of the map's
    positive part inside (Wang et al., "Score-CAM", CVPR-W 2020, §4.3). area: the boxes' share of the picture: the mass
    of a map that is the same everywhere, and the chance of a hit.
    """
    row, column = np.unravel_index(int(np.argmax(seen)), seen.shape)
    y, x = (row + 0.5) / seen.shape[0], (column + 0.5) / seen.shape[1]
    hit = any(place.left <= x <= place.right and place.top <= y <= place.bottom for place in places)
    positive, inside = np.clip(seen, 0, None), covered(places, (seen.shape[0], seen.shape[1]))
    total = float(positive.sum())
    mass = float((positive * inside).sum()) / total if total > 0 else 0.0
    return {"hit": float(hit), "mass": mass, "area": float(inside.mean())}


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of those that are there; None where none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
