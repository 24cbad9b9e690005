"""What of the samples that were drawn a model can read: texts that fit into it, with room for its answers."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from ressa.data import Batcher, CaptionedImage, Sample
from ressa.data.checking import readable
from ressa.data.faults import Faults
from ressa.errors import UsageError
from ressa.evaluation.drawing import Drawn
from ressa.evaluation.matching import scores_itself


class Vlm(Protocol):
    """A transformers model and its processor."""

    model: Any
    processor: Any


def fitted(drawn: Drawn, vlm: Vlm) -> Drawn:
    """The same without the samples that the model cannot read; what it reads in part is said.

    Raises UsageError for those, unless they are to be skipped, and where nothing is left.
    """
    faults = Faults(drawn.on_bad, drawn.name)
    found = dict(drawn.samples)
    if scores_itself(vlm.model):  # its processor cuts captions that are too long
        asked = {task: samples for task, samples in found.items() if task != "retrieval"}
    else:
        asked = drawn.samples
    for task, samples in asked.items():
        batcher = Batcher(vlm.processor, vlm.model.config, getattr(vlm.model, "generation_config", None))
        if task == "retrieval":
            found[task] = _scorable(samples, batcher, faults)
        else:
            _, room = drawn.settings[task].tokens
            found[task] = readable(samples, batcher, faults, room=room)
    faults.settle()
    if empty := [task for task, samples in found.items() if not samples]:
        raise UsageError(f"{empty[0]} has nothing left that this model can read: shorten its texts.")
    return replace(drawn, samples=found)


def _scorable(images: Sequence[CaptionedImage], batcher: Batcher, faults: Faults) -> list[CaptionedImage]:
    """The images all of whose captions the model can read behind their prompt."""
    pairs = [
        [Sample(image.image, image.prompt, caption, image.id) for caption in image.captions]
        for image in images
    ]
    fitting = {id(pair) for pair in readable([pair for each in pairs for pair in each], batcher, faults)}
    return [
        image for image, each in zip(images, pairs, strict=True) if all(id(pair) in fitting for pair in each)
    ]
