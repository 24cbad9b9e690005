"""A-OKVQA: `aokvqa_v1p0_val.json`, a list of questions with four choices and ten direct answers.

aokvqa_v1p0.tar.gz unpacks to one file a split; the pictures are COCO's of 2017. The test split has no answers.
"""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from ressa.data.formats.coco import folders_of
from ressa.data.formats.part import Part, Reading, check_split, read_each
from ressa.data.formats.vqa import most_common
from ressa.data.jsonfile import entries
from ressa.data.numbering import Numbering, ids_in
from ressa.data.sample import Question
from ressa.data.tree import Tree
from ressa.data.values import field, identity, items, place_of, text

_FILE = re.compile(r"aokvqa_v1p0_(train|val)\.json")


def find(tree: Tree) -> Iterator[Part]:
    for file in tree.files(".json"):
        if found := _FILE.fullmatch(file.name):
            images = tree.pictures(file, *folders_of(f"{found[1]}2017"))
            yield Part("aokvqa", found[1], "A-OKVQA", (file,), _read, images, f"{found[1]}2017")


def _read(reading: Reading, part: Part) -> Sequence[Question]:
    asked = entries(part.files[0], part.name)
    pictures = Numbering("COCO", part.pictures(reading), ids_in(asked, "image_id"))
    return read_each(
        reading, part, part.files[0], asked, partial(_question, reading, pictures, part.split), where=""
    )


def _question(reading: Reading, pictures: Numbering, split: str, entry: dict[str, Any]) -> Question | None:
    if "direct_answers" not in entry and "correct_choice_idx" not in entry:
        return None
    check_split(entry.get("split"), split)
    question = text(field(entry, "question"), "the question")
    choices = tuple(text(each, "a choice") for each in items(field(entry, "choices"), "choices"))
    correct = place_of(field(entry, "correct_choice_idx"), "the correct_choice_idx", choices)
    direct = tuple(
        text(each, "an answer") for each in items(entry.get("direct_answers") or [], "direct_answers")
    )
    return Question(
        image=pictures.find(identity(field(entry, "image_id"), "the image_id")),
        prompt=reading.ask(question),
        target=most_common(direct) if direct else choices[correct],
        id=identity(field(entry, "question_id"), "the question_id"),
        question=question,
        answers=() if entry.get("difficult_direct_answer") is True else direct,  # only its choices are scored
        choices=choices,
        correct=correct,
    )
