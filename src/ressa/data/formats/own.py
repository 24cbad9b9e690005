"""ressa's own layout: one folder, a file a task and split, named alike for all datasets.

images/<split>/                  the image files; images/ itself where splits share one folder
captions_<split>.json            as COCO's captions
questions_<split>.json           as VQAv2's questions
annotations_<split>.json         as VQAv2's annotations
okvqa_questions_<split>.json     as OK-VQA's
okvqa_annotations_<split>.json
gqa_<split>.json                 as GQA's questions
karpathy.json                    Karpathy's splits, of which retrieval takes its pool
images/gqa/                      GQA's image files, where they are kept apart from COCO's
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ressa.data.formats.coco import image_names, read_captions
from ressa.data.formats.gqa import read_gqa
from ressa.data.formats.karpathy import read_karpathy
from ressa.data.formats.part import Part, Reading
from ressa.data.formats.vqa import read_vqa
from ressa.data.sample import CaptionedImage, Question
from ressa.data.tree import Tree

FILES = {
    "caption": "captions_{}.json",
    "vqa": "questions_{}.json",
    "okvqa": "okvqa_questions_{}.json",
    "gqa": "gqa_{}.json",
}
_OFFICIAL = re.compile(r"(train|val|test)\d{4}")  # COCO's own names, which its own reader knows better


def find(tree: Tree) -> Iterator[Part]:
    for task, name in FILES.items():
        before, after = name.split("{}")
        for path in sorted(tree.path.glob(f"{before}*{after}")):
            split = path.name.removeprefix(before).removesuffix(after)
            if split and not _OFFICIAL.fullmatch(split):
                yield Part(task, split, "ressa's layout", (path,), _READ[task])


def images(path: Path, split: str) -> Path:
    below = path / "images" / split
    return below if below.is_dir() else path / "images"


def read_pool(reading: Reading, split: str) -> list[CaptionedImage]:
    """The retrieval pool of a split, by `karpathy.json`."""
    return read_karpathy(
        reading.inside(reading.path / "karpathy.json"),
        reading.path / "images",
        split,
        reading.caption,
        reading.faults,
        root=reading.path,
        follow_links=reading.follow_links,
    )


def _captions(reading: Reading, part: Part) -> Sequence[CaptionedImage]:
    folder = reading.images(images(reading.path, part.split))
    return read_captions(part.files[0], folder, reading.caption, reading.faults)


def _questions(reading: Reading, part: Part) -> Sequence[Question]:
    prefix = part.files[0].name.partition("questions_")[0]
    return read_vqa(
        part.files[0],
        reading.inside(reading.path / f"{prefix}annotations_{part.split}.json"),
        reading.images(images(reading.path, part.split)),
        reading.question,
        _numbers(reading, part.split),
        reading.faults,
    )


def _gqa(reading: Reading, part: Part) -> Sequence[Question]:
    apart = reading.path / "images" / "gqa"
    folder = reading.images(apart if apart.is_dir() else images(reading.path, part.split))
    return read_gqa(part.files[0], folder, reading.question, _numbers(reading, part.split), reading.faults)


def _numbers(reading: Reading, split: str) -> dict[str, str]:
    """Image id → file name, from the split's captions file; read once."""
    if split not in reading.numbers:
        captions = reading.path / f"captions_{split}.json"
        reading.numbers[split] = image_names(reading.inside(captions)) if captions.is_file() else {}
    return reading.numbers[split]


_READ: dict[str, Any] = {"caption": _captions, "vqa": _questions, "okvqa": _questions, "gqa": _gqa}
