"""Evidence: how much less likely an answer becomes when a part of the picture is hidden.

Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks" (ECCV 2014, §4.2): a grey square is moved over
the picture and what the model gives is watched. Here the square has the picture's mean colour, and what is watched is
log p(answer | picture, question), the end token included. The processor sees the changed picture, so this works with
any model that can be trained.
"""

from dataclasses import replace
from typing import Any

import torch
from PIL import Image, ImageStat
from torch import Tensor

from ressa.data import Batcher, Sample
from ressa.data.images import open_image
from ressa.data.rgb import to_rgb
from ressa.errors import UsageError
from ressa.evaluation.likelihood import log_likelihoods

CELLS = 8  # of a map, across and down
WINDOW = 2  # cells, both sides of what is hidden

SOURCE = (
    f"occlusion (Zeiler & Fergus 2014): drop of log p(answer) when a window of {WINDOW} × {WINDOW} of {CELLS} × "
    f"{CELLS} cells takes the picture's mean colour, mean over the windows that cover a cell"
)


def occlusion_map(
    model: Any, batcher: Batcher, sample: Sample, *, batch_size: int = 64
) -> tuple[float, Tensor]:
    """log p(target | whole picture) in nats, and (CELLS, CELLS) float32: for each cell the mean, over the windows that
    cover it, of how far log p falls; negative where hiding something makes the answer likelier.

    Costs (CELLS − WINDOW + 1)² + 1 = 50 forwards, in batches.
    """
    picture = picture_of(sample)
    mean = tuple(round(value) for value in ImageStat.Stat(picture).mean)
    corners = [(row, column) for row in range(CELLS - WINDOW + 1) for column in range(CELLS - WINDOW + 1)]
    pictures = [picture, *(_hidden(picture, row, column, mean) for row, column in corners)]
    scores = []
    with torch.inference_mode():
        for start in range(0, len(pictures), batch_size):
            part = [replace(sample, image=each) for each in pictures[start : start + batch_size]]
            scores.append(log_likelihoods(model, batcher, part).cpu())
    whole, *rest = torch.cat(scores).tolist()
    total, covered = torch.zeros(CELLS, CELLS), torch.zeros(CELLS, CELLS)
    for (row, column), score in zip(corners, rest, strict=True):
        total[row : row + WINDOW, column : column + WINDOW] += whole - score
        covered[row : row + WINDOW, column : column + WINDOW] += 1
    return whole, total / covered


def picture_of(sample: Sample) -> Image.Image:
    """A sample's only picture, RGB. Raises UsageError where it has none, or several."""
    if len(sample.images) != 1:
        raise UsageError(f"sample {sample.id} has {len(sample.images)} pictures: look at samples with one.")
    (picture,) = sample.images
    return to_rgb(picture) if isinstance(picture, Image.Image) else open_image(picture)


def _hidden(picture: Image.Image, row: int, column: int, colour: tuple[int, ...]) -> Image.Image:
    """The picture with one window in one colour."""
    width, height = picture.size
    left, right = (round(width * edge / CELLS) for edge in (column, column + WINDOW))
    top, bottom = (round(height * edge / CELLS) for edge in (row, row + WINDOW))
    hidden = picture.copy()
    hidden.paste(colour, (left, top, right, bottom))
    return hidden
