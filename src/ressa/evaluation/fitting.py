"""What of the samples that were drawn a model can read: texts that fit into it, with room for its answers."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from ressa.data import Batcher, CaptionedImage, Sample
from ressa.data.checking import readable
from ressa.data.faults import Faults
from ressa.dual import is_dual_encoder
from ressa.errors import UsageError
from ressa.evaluation.drawing import Drawn
from ressa.warned import warn

SCORED_BY_PAIRS = ("retrieval", "zeroshot")  # tasks


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
    asked = drawn.samples
    if is_dual_encoder(vlm.model, vlm.processor):  # its processor cuts texts that are too long
        asked = {task: samples for task, samples in found.items() if task not in SCORED_BY_PAIRS}
        kind = type(vlm.model).__name__
        if asked and not vlm.model.can_generate():
            if len(asked) == len(found):
                raise UsageError(
                    f"{kind} cannot generate text: evaluate it on {' or '.join(SCORED_BY_PAIRS)}, or another model."
                )
            warn(f"{kind} cannot generate text: {', '.join(asked)} are left out.")
            found = {task: samples for task, samples in found.items() if task in SCORED_BY_PAIRS}
            asked = {}
    for task, samples in asked.items():
        batcher = Batcher(vlm.processor, vlm.model.config, getattr(vlm.model, "generation_config", None))
        if task in SCORED_BY_PAIRS:
            found[task] = _scorable(samples, batcher, faults)
        else:
            _, room = drawn.settings[task].tokens
            found[task] = readable(samples, batcher, faults, room=room)
    faults.settle()
    if empty := [task for task, samples in found.items() if not samples]:
        raise UsageError(f"{empty[0]} has nothing left that this model can read: shorten its texts.")
    return replace(drawn, samples=found)


def _scorable(images: Sequence[CaptionedImage], batcher: Batcher, faults: Faults) -> list[CaptionedImage]:
    """The images all of whose captions the model can read behind their prompt; all where none has captions."""
    pairs = [
        [Sample(image.image, image.prompt, caption, image.id) for caption in getattr(image, "captions", ())]
        for image in images
    ]
    fitting = {id(pair) for pair in readable([pair for each in pairs for pair in each], batcher, faults)}
    return [
        image for image, each in zip(images, pairs, strict=True) if all(id(pair) in fitting for pair in each)
    ]
