"""ScienceQA: `problems.json` (id → {question, choices, answer, hint, image, split, …}) and `pid_splits.json`.

The pictures unpack to `train/<id>/image.png`, `val/…`, `test/…`. Only problems with a picture are read (ScienceQA-IMG).
"""

from collections.abc import Iterator, Sequence
from typing import Any

from ressa.data.faults import collecting
from ressa.data.formats.part import Part, Reading
from ressa.data.image_folder import ImageFolder
from ressa.data.jsonfile import read_json
from ressa.data.sample import Question
from ressa.data.tree import Tree
from ressa.data.values import answer, field, fields, identity, items, place_of, text, texts
from ressa.errors import UsageError

SPLITS = ("train", "val", "test")


def find(tree: Tree) -> Iterator[Part]:
    for file in tree.files(".json"):
        if file.name == "problems.json":
            for split in SPLITS:
                homes = tuple(path for name in (f"images/{split}", split) for path in tree.named(name, file))
                yield Part("scienceqa", split, "ScienceQA-IMG", (file,), _read, homes, split)


def _read(reading: Reading, part: Part) -> Sequence[Question]:
    (file,) = part.files
    problems = fields(read_json(file), f"{file}")
    splits = file.with_name("pid_splits.json")
    listed = fields(read_json(reading.inside(splits)), f"{splits}") if splits.is_file() else {}
    chosen = listed.get(part.split)
    wanted = None if chosen is None else {identity(each, "an id") for each in items(chosen, part.split)}
    folder = part.pictures(reading)
    found, without = [], 0
    with collecting(reading.faults) as collected:
        for key, entry in problems.items():
            with collected.at(file, "problem", key):
                if (key not in wanted) if wanted is not None else (fields(entry).get("split") != part.split):
                    continue
                if not fields(entry).get("image"):
                    without += 1
                else:
                    found.append(_question(reading, folder, key, entry))
        collected.leave_out(file, without, f"problems of {part.split} without a picture")
        return collected.some(found, f"problems of {part.split} with a picture", file)


def _question(reading: Reading, folder: ImageFolder, key: str, entry: dict[str, Any]) -> Question:
    words = text(field(entry, "question"), "the question")
    choices = tuple(answer(each, "a choice") for each in items(field(entry, "choices"), "choices"))
    correct = place_of(field(entry, "answer"), "the answer", choices)
    grade = " ".join(texts(entry.get("grade"), "the grade"))
    number = grade.removeprefix("grade")
    if not number.isdecimal() and grade:
        raise UsageError(f"the grade is {grade[:40]!r}, not such as grade4")
    band = ("grades 1-6" if int(number) <= 6 else "grades 7-12",) if grade else ()
    return Question(
        image=folder.named(f"{key}/{text(entry['image'], 'the image')}"),
        prompt=reading.ask(words),
        target=choices[correct],
        id=key,
        question=words,
        answers=(choices[correct],),
        kinds=(*texts(entry.get("subject"), "the subject"), *band),
        choices=choices,
        correct=correct,
        context=text(entry.get("hint") or "", "the hint", may_be_empty=True),
    )
