"""POPE: lines of {question_id, image, text, label}, one file each for random, popular and adversarial objects.

`coco_pope_random.json` and so on, of the official repository's `output/coco/`; the pictures are of COCO's val2014.
"""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from ressa.data.formats.coco import folders_of
from ressa.data.formats.part import Part, Reading, read_each
from ressa.data.jsonfile import read_lines
from ressa.data.sample import Question
from ressa.data.tree import Tree
from ressa.data.values import field, identity, text
from ressa.errors import UsageError

_FILE = re.compile(r"(coco)_pope_(random|popular|adversarial)\.json")


def find(tree: Tree) -> Iterator[Part]:
    files = tuple(file for file in tree.files(".json") if _FILE.fullmatch(file.name))
    if files:
        images = tree.pictures(files[0], *folders_of("val2014"))
        yield Part("pope", "test", "POPE", tuple(sorted(files)), _read, images, "val2014")


def _read(reading: Reading, part: Part) -> Sequence[Question]:
    folder = part.pictures(reading)

    def question(kind: str, entry: dict[str, Any]) -> Question:
        words = text(field(entry, "text"), "the text")
        label = text(field(entry, "label"), "the label").strip().lower()
        if label not in ("yes", "no"):
            raise UsageError(f"the label is {label[:40]!r}, not yes or no")
        key = identity(field(entry, "question_id"), "the question_id")
        return Question(
            image=folder.named(field(entry, "image")),
            prompt=reading.ask(words),
            target=label,
            id=f"{kind} {key}",
            question=words,
            answers=(label,),
            kinds=(kind,),
            answer_type="yes/no",
        )

    found = []
    for file in part.files:
        kind = file.stem.rpartition("_")[2]
        found += read_each(reading, part, file, read_lines(file), partial(question, kind), where="line")
    return found
