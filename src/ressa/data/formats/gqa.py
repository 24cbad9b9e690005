"""GQA: one file, question id → {imageId, question, answer, types}.

questions1.2.zip unpacks to `train_balanced_questions.json`, `val_…`, `testdev_…` and files without answers,
images.zip to `images/`. The unbalanced training questions (`train_all_questions/`, ten files) are read where there
are no balanced ones.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ressa.data.faults import Faults, collecting
from ressa.data.formats.part import Part, Reading
from ressa.data.image_folder import ImageFolder, image_folder
from ressa.data.jsonfile import expecting, read_json
from ressa.data.numbering import Numbering, ids_in
from ressa.data.prompts import QUESTION
from ressa.data.sample import Question
from ressa.data.tree import Tree
from ressa.data.values import answer, field, fields, identity, text, texts

_QUESTIONS = re.compile(r"(train|val|testdev)_(balanced|all)_questions\.json")
_SHARD = re.compile(r"train_all_questions_\d+\.json")
FOLDERS = ("gqa/images", "images/gqa", "images", "allImages/images"), ("VG_100K", "VG_100K_2")


def find(tree: Tree) -> Iterator[Part]:
    files = list(tree.files("_questions.json"))
    for file in sorted(files, key=lambda file: "_balanced_" not in file.name):
        if found := _QUESTIONS.fullmatch(file.name):
            name = f"GQA, {found[2]} questions"
            images = tree.pictures(file, *FOLDERS)
            yield Part("gqa", found[1], name, (file,), _read, images, "images", f"{found[1]}_{found[2]}")
    shards = tuple(sorted(file for file in tree.files(".json") if _SHARD.fullmatch(file.name)))
    if shards:
        images = tree.pictures(shards[0], *FOLDERS)
        yield Part("gqa", "train", "GQA, all questions", shards, _read, images, "images", "train_all")


def _read(reading: Reading, part: Part) -> Sequence[Question]:
    folder = part.pictures(reading)
    return [
        question
        for file in part.files
        for question in read_gqa(file, folder, reading.question, None, reading.faults)
    ]


def read_gqa(
    questions: str | Path,
    images: str | Path | ImageFolder,
    template: str = QUESTION,
    names: Mapping[str, str] | None = None,
    faults: Faults | None = None,
) -> list[Question]:
    """The questions in file order, each with its one answer; kinds are its structural and its semantic type.

    Official files fit as they are, for example `testdev_balanced_questions.json` and the folder `images`.
    `names` maps image ids to file names where these are not called by the id. faults: where to put what cannot
    be used; by default that raises UsageError.
    """
    content = read_json(questions)
    with expecting("GQA questions", questions):
        entries = dict(content.items())
    pictures = Numbering("Visual Genome", image_folder(images), ids_in(entries.values(), "imageId"), names)
    found: list[Question] = []
    with collecting(faults) as collected:
        for key, entry in entries.items():
            with collected.at(questions, "question", key):
                asked = text(field(fields(entry), "question"), "the question")
                said = answer(field(entry, "answer"), "the answer")
                found.append(
                    Question(
                        image=pictures.find(identity(field(entry, "imageId"), "the imageId")),
                        prompt=template.replace("{}", asked),
                        target=said,
                        id=text(key, "the id"),
                        question=asked,
                        answers=(said,),
                        kinds=_kinds(fields(entry.get("types") or {}, "types")),
                    )
                )
        return collected.some(found, "questions", questions)


def _kinds(types: dict[str, Any]) -> tuple[str, ...]:
    return tuple(
        f"{key}: {kind}"
        for key in ("structural", "semantic")
        for kind in texts(types.get(key), f"the {key} type")
    )
