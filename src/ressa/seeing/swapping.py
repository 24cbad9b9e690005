"""How much answers hang on the picture: the same questions about another one."""

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

from ressa.data import Question
from ressa.data.sample import image_key
from ressa.errors import UsageError
from ressa.evaluation import Drawn


def swapped(drawn: Drawn) -> Drawn:
    """The questions of what was drawn, each with the picture of the next image, the last with the first one's; captions
    are left out. Whoever answers them as well as before does not look.

    Raises UsageError where a task asks about one image only.
    """
    samples: dict[str, list[Any]] = {}
    for task, asked in drawn.samples.items():
        if not all(isinstance(sample, Question) and sample.images for sample in asked):
            continue
        images: dict[Hashable, Any] = {image_key(sample): sample.image for sample in asked}
        if len(images) < 2:
            raise UsageError(
                f"{task} asks about one image only, so there is none to swap it with: ask for more."
            )
        keys = list(images)
        others = dict(zip(keys, [images[key] for key in (*keys[1:], keys[0])], strict=True))
        samples[task] = [replace(sample, image=others[image_key(sample)]) for sample in asked]
    return replace(drawn, samples=samples)
