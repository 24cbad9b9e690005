"""One folder of a dataset in the public formats, and the samples it gives for evaluation and for training.

A user assembles it from official downloads by renaming (or linking) them, for each split one has
(`train`, `calibration`, `val`, `test`, ... any name):

    images/<split>/                  the image files; images/ itself where splits share one folder
    captions_<split>.json            COCO captions (captions_val2014.json)
    questions_<split>.json           VQAv2 questions (v2_OpenEnded_mscoco_val2014_questions.json)
    annotations_<split>.json         VQAv2 annotations (v2_mscoco_val2014_annotations.json)
    okvqa_questions_<split>.json     OK-VQA questions (OpenEnded_mscoco_val2014_questions.json)
    okvqa_annotations_<split>.json   OK-VQA annotations (mscoco_val2014_annotations.json)
    gqa_<split>.json                 GQA questions (testdev_balanced_questions.json)
    karpathy.json                    retrieval pools (dataset_coco.json, dataset_flickr30k.json)

Only what is used has to be there.
"""

import random
from pathlib import Path
from typing import Literal, get_args

from ressa.data.coco import image_names, read_captions
from ressa.data.gqa import read_gqa
from ressa.data.karpathy import read_karpathy
from ressa.data.sample import CaptionedImage, Question, Sample
from ressa.data.vqa import read_vqa
from ressa.errors import UsageError

Mixture = Literal["captions", "qa", "mix"]


class DatasetFolder:
    """Reads the layout above; every method raises UsageError naming the file that is missing or wrong."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise UsageError(
                f"dataset folder {self.path} does not exist: name a folder with a dataset in it."
            )

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def images(self, split: str) -> Path:
        below = self.path / "images" / split
        return below if below.is_dir() else self.path / "images"

    def vqa(self, split: str) -> list[Question]:
        """VQAv2 questions of a split."""
        return self._vqa(split, "")

    def okvqa(self, split: str) -> list[Question]:
        """OK-VQA questions of a split."""
        return self._vqa(split, "okvqa_")

    def gqa(self, split: str) -> list[Question]:
        """GQA questions of a split."""
        return read_gqa(self.path / f"gqa_{split}.json", self.images(split), names=self._names(split))

    def captions(self, split: str) -> list[CaptionedImage]:
        """Captioned images of a split."""
        return read_captions(self.path / f"captions_{split}.json", self.images(split))

    def retrieval(self, split: str) -> list[CaptionedImage]:
        """The retrieval pool of a split: Karpathy's list where there is one, else the captions file."""
        listed = self.path / "karpathy.json"
        if not listed.is_file():
            return self.captions(split)
        return read_karpathy(listed, self.path / "images", split)

    def _vqa(self, split: str, prefix: str) -> list[Question]:
        return read_vqa(
            self.path / f"{prefix}questions_{split}.json",
            self.path / f"{prefix}annotations_{split}.json",
            self.images(split),
            names=self._names(split),
        )

    def _names(self, split: str) -> dict[str, str]:
        captions = self.path / f"captions_{split}.json"
        return image_names(captions) if captions.is_file() else {}


def training_samples(
    folder: str | Path, split: str, count: int, seed: int = 0, mixture: Mixture = "captions"
) -> list[Sample]:
    """`count` image-text samples of a split, drawn with a seed, for calibration and repair.

    `captions`: one caption an image, then second captions once every image has given one, and so on
    (RESSA's choice). `qa`: questions of VQAv2, OK-VQA and GQA, whichever files the split has, each with its
    most common answer. `mix`: half and half. A split with fewer gives all it has. Raises UsageError when
    there is nothing to draw from.
    """
    if mixture not in get_args(Mixture):
        raise UsageError(f"mixture {mixture!r} is unknown: choose one of {', '.join(get_args(Mixture))}.")
    if count < 1:
        raise UsageError(f"{count} samples were asked for: ask for at least one.")
    data = DatasetFolder(folder)
    rng = random.Random(seed)
    if mixture == "captions":
        return _caption_samples(data.captions(split), count, rng)
    if mixture == "qa":
        return _question_samples(data, split, count, rng)
    half = count // 2
    samples = _caption_samples(data.captions(split), count - half, rng)
    samples += _question_samples(data, split, half, rng) if half else []
    rng.shuffle(samples)
    return samples


def _caption_samples(images: list[CaptionedImage], count: int, rng: random.Random) -> list[Sample]:
    shuffled = rng.sample(images, len(images))
    orders = [rng.sample(image.captions, len(image.captions)) for image in shuffled]
    samples = []
    for turn in range(max(map(len, orders))):
        for image, captions in zip(shuffled, orders, strict=True):
            if turn < len(captions):
                samples.append(Sample(image.image, image.prompt, captions[turn], image.id))
            if len(samples) == count:
                return samples
    return samples


def _question_samples(data: DatasetFolder, split: str, count: int, rng: random.Random) -> list[Sample]:
    readers = {"questions_": data.vqa, "okvqa_questions_": data.okvqa, "gqa_": data.gqa}
    present = [read for prefix, read in readers.items() if (data.path / f"{prefix}{split}.json").is_file()]
    if not present:
        raise UsageError(f"{data.path} has no questions for the split {split!r}: add questions_{split}.json.")
    questions = [question for read in present for question in read(split)]
    chosen = rng.sample(questions, min(count, len(questions)))
    return [Sample(question.image, question.prompt, question.target, question.id) for question in chosen]
