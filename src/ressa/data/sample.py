"""The data a task hands to a model: pictures, a prompt, and what may be known of the answer."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from PIL import Image

from ressa.data.picture import PackedPicture

StoredPicture = Path | PackedPicture
Picture = StoredPicture | Image.Image
Turn = tuple[str, str]  # what was asked and what was answered

PICTURE = "\N{OBJECT REPLACEMENT CHARACTER}"
"""Stands in a prompt where a picture stands; pictures that no prompt places stand in front of the first one."""


@dataclass(frozen=True)
class Sample:
    """Pictures and a prompt; `target` is the text to learn (None when the sample is only asked).

    `image` is one picture, a tuple of several (for models that take several) or None (text alone). A picture is a
    path (text is one) or a `PackedPicture` (opened when it is needed) or a PIL image. `id` names the sample within
    its dataset, `split` is the dataset's. `earlier` are the turns of the conversation before `prompt`; their answers
    are learned, too, where there is a target. Without a picture and without a prompt, `target` is plain text.
    """

    image: str | Picture | tuple[str | Picture, ...] | None
    prompt: str
    target: str | None = None
    id: str = ""
    earlier: tuple[Turn, ...] = field(default=(), kw_only=True)
    split: str = field(default="", kw_only=True)

    @property
    def images(self) -> tuple[Picture, ...]:
        """Its pictures, in order; none where it is text alone."""
        if self.image is None:
            return ()
        given = self.image if isinstance(self.image, tuple) else (self.image,)
        return tuple(Path(picture) if isinstance(picture, str) else picture for picture in given)

    @property
    def plain(self) -> bool:
        """Whether it is plain text, which answers nothing and goes on where it ends."""
        return not (self.images or self.prompt or self.earlier)

    @property
    def turns(self) -> tuple[tuple[str, str | None], ...]:
        """Every turn of the conversation, the one with `target` last."""
        return (*self.earlier, (self.prompt, self.target))


AnySample = TypeVar("AnySample", bound=Sample)


@dataclass(frozen=True)
class Question(Sample):
    """A question about an image with the answers that people gave (10 in VQAv2 and OK-VQA, 1 in GQA).

    `kinds` are the groups in which the question is also scored on its own, such as VQAv2's `question_type`;
    `answer_type` is VQAv2's (yes/no, number, other) or VizWiz' (unanswerable, too).

    Multiple choice: `choices` are the options in the order in which they are shown, `correct` is the index of the
    right one (None where the split hides it), `context` what is told beside the question (ScienceQA's and MMBench's
    hint). `answers` are empty where only the options count (A-OKVQA's `difficult_direct_answer`).
    """

    question: str = ""
    answers: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    answer_type: str = ""
    choices: tuple[str, ...] = ()
    correct: int | None = None
    context: str = ""


@dataclass(frozen=True)
class CaptionedImage(Sample):
    """An image with its reference captions and, where the dataset says so, the objects in it.

    An object is given by the forms of its name, such as ("dog", "dogs"). `kinds` are the groups in which the image is
    also scored on its own (NoCaps' domain).
    """

    captions: tuple[str, ...] = ()
    objects: tuple[tuple[str, ...], ...] = ()
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelledImage(Sample):
    """An image of one class; `label` is the class's name, in words, `classes` are the names it was chosen among."""

    label: str = ""
    classes: tuple[str, ...] = ()


def picture_key(picture: Picture) -> Hashable:
    """Equal for the same picture: its place, or which PIL image it is."""
    return id(picture) if isinstance(picture, Image.Image) else picture


def image_key(sample: Sample) -> Hashable:
    """Equal for samples of the same pictures; one that shows none is like no other."""
    return tuple(picture_key(picture) for picture in sample.images) or (sample.id, sample.turns)


def with_split(samples: Sequence[AnySample], split: str) -> list[AnySample]:
    """The samples, which are of this split."""
    return [replace(sample, split=split) for sample in samples]


def seeing_first(samples: Sequence[AnySample]) -> list[AnySample]:
    """The samples, one that shows a picture first where there is one: what a first batch calls tells which blocks a
    model has to be given."""
    place = next((place for place, sample in enumerate(samples) if sample.images), 0)
    return [*samples[place : place + 1], *samples[:place], *samples[place + 1 :]]
