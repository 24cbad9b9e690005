"""TextVQA: `TextVQA_0.5.1_val.json`, {"data": [{image_id, question, answers: ten, …}]}.

train_val_images.zip unpacks to `train_images/`, which holds both splits' pictures. The test split has no answers.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from ressa.data.formats.part import Part, Reading, check_split, read_each
from ressa.data.formats.vqa import most_common
from ressa.data.jsonfile import lists
from ressa.data.sample import Question
from ressa.data.tree import Tree
from ressa.data.values import answer, field, identity, items, text, texts
from ressa.errors import UsageError

_FILE = re.compile(r"TextVQA_0\.5\.?\d*_(train|val)\.json")


def find(tree: Tree) -> Iterator[Part]:
    for file in tree.files(".json"):
        if found := _FILE.fullmatch(file.name):
            images = tree.pictures(file, ("train_images",), ("textvqa/images",))
            yield Part("textvqa", found[1], "TextVQA", (file,), _read, images, "train_images")


def _read(reading: Reading, part: Part) -> Sequence[Question]:
    (asked,) = lists(part.files[0], part.name, "data")
    folder = part.pictures(reading)

    def question(entry: dict[str, Any]) -> Question | None:
        if "answers" not in entry:
            return None
        check_split(entry.get("set_name"), part.split)
        words = text(field(entry, "question"), "the question")
        given = items(entry["answers"], "answers")
        said = tuple(answer(each, "an answer", may_be_empty=True) for each in given)
        if not any(each.strip() for each in said):
            raise UsageError("nobody answers: its answers are empty")
        return Question(
            image=folder.called(identity(field(entry, "image_id"), "the image_id")),
            prompt=reading.ask(words),
            target=most_common(said),
            id=identity(field(entry, "question_id"), "the question_id"),
            question=words,
            answers=said,
            kinds=texts(entry.get("image_classes") or None, "the image_classes"),
        )

    return read_each(reading, part, part.files[0], asked, question, where="data")
