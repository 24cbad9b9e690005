"""The data a task hands to a model: one image, one prompt, and what may be known of the answer."""

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image


@dataclass(frozen=True)
class Sample:
    """One image and one prompt; `target` is the text to learn (None when the sample is only asked).

    `image` is a path (opened when it is needed) or a PIL image. `id` names the sample within its dataset.
    """

    image: Path | Image.Image
    prompt: str
    target: str | None = None
    id: str = ""


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

    An object is given by the forms of its name, such as ("dog", "dogs").
    """

    captions: tuple[str, ...] = ()
    objects: tuple[tuple[str, ...], ...] = ()


def image_key(sample: Sample) -> Hashable:
    """Equal for samples of the same image: its path, or which PIL image it is."""
    return sample.image if not hasattr(sample.image, "getpixel") else id(sample.image)
