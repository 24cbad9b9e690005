"""VizWiz-VQA: `val.json`, a list of {image, question, answers: ten {answer, answer_confidence}, answer_type,
answerable}.

Annotations.zip unpacks to `train.json`, `val.json` and `test.json`, without answers; the pictures to `train/`,
`val/`, `test/`.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from ressa.data.formats.part import Part, Reading, check_split, read_each
from ressa.data.formats.sniffing import beginning
from ressa.data.formats.vqa import most_common
from ressa.data.jsonfile import entries
from ressa.data.sample import Question
from ressa.data.tree import Tree
from ressa.data.values import answer, field, fields, items, text, texts
from ressa.errors import UsageError

_FILE = re.compile(r"(?:vizwiz_)?(train|val)\.json", re.IGNORECASE)


def find(tree: Tree) -> Iterator[Part]:
    for file in tree.files(".json"):
        found = _FILE.fullmatch(file.name)
        if found and re.match(r'\s*\[\s*\{\s*"[^{}]*"VizWiz_', beginning(file)):
            split = found[1].lower()
            images = tree.pictures(file, (split,), (f"vizwiz/{split}", "vizwiz/images"), ("images",))
            yield Part("vizwiz", split, "VizWiz-VQA", (file,), _read, images, split)


def _read(reading: Reading, part: Part) -> Sequence[Question]:
    folder = part.pictures(reading)

    def question(entry: dict[str, Any]) -> Question | None:
        if "answers" not in entry:
            return None
        words = text(field(entry, "question"), "the question")
        said = tuple(
            answer(field(fields(each, "an answer"), "answer"), "an answer", may_be_empty=True)
            for each in items(entry["answers"], "answers")
        )
        if not any(each.strip() for each in said):
            raise UsageError("nobody answers: its answers are empty")
        name = text(field(entry, "image"), "the image")
        check_split(name.removeprefix("VizWiz_").partition("_")[0], part.split)
        kind = " ".join(texts(entry.get("answer_type"), "the answer_type"))
        return Question(
            image=folder.named(name),
            prompt=reading.ask(words),
            target=most_common(said),
            id=name.rpartition(".")[0],
            question=words,
            answers=said,
            kinds=(kind,) if kind else (),
            answer_type=kind,
        )

    return read_each(reading, part, part.files[0], entries(part.files[0], part.name), question, where="")
