"""Pictures cut and mirrored at random, as LAVIS trains: torchvision's `RandomResizedCrop` and `RandomHorizontalFlip`,
but for the scaling, which the model's processor does."""

import math
import random
from collections.abc import Iterable
from dataclasses import replace

from PIL import Image

from ressa.data.images import open_image
from ressa.data.sample import AnySample, Picture

LEAST = 0.5  # of the area
RATIOS = (3 / 4, 4 / 3)  # of width to height
TRIES = 10


def cropped(sample: AnySample, seed: int, number: int) -> AnySample:
    """The sample with its pictures cut and mirrored: by seed and number, and so the same whenever it is asked for."""
    rng = random.Random(f"{seed} {number}")
    pictures = tuple(crop(_opened(picture), rng) for picture in sample.images)
    if not pictures:
        return sample
    return replace(sample, image=pictures if isinstance(sample.image, tuple) else pictures[0])


def cropped_all(samples: Iterable[AnySample], seed: int) -> list[AnySample]:
    """All of some samples, whose pictures are then in memory."""
    return [cropped(sample, seed, number) for number, sample in enumerate(samples)]


def crop(image: Image.Image, rng: random.Random) -> Image.Image:
    """A part of half of the area or more, its sides at 3:4 to 4:3, mirrored in half of the cases.

    Where ten tries do not fit (a long and narrow picture), the largest middle part at such a ratio.
    """
    width, height = image.size
    box = None
    for _ in range(TRIES):
        area = width * height * rng.uniform(LEAST, 1.0)
        ratio = math.exp(rng.uniform(math.log(RATIOS[0]), math.log(RATIOS[1])))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            left, top = rng.randint(0, width - wide), rng.randint(0, height - high)
            box = (left, top, left + wide, top + high)
            break
    if box is None:
        wide, high = min(width, round(height * RATIOS[1])), min(height, round(width / RATIOS[0]))
        left, top = (width - wide) // 2, (height - high) // 2
        box = (left, top, left + wide, top + high)
    part = image.crop(box)
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else part


def _opened(picture: Picture) -> Image.Image:
    return picture if isinstance(picture, Image.Image) else open_image(picture)
