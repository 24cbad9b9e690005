"""GQA: one file, question id → {imageId, question, answer, types}."""

from collections.abc import Mapping
from pathlib import Path

from ressa.data.image_folder import ImageFolder
from ressa.data.jsonfile import at_least_one, expecting, read_json
from ressa.data.prompts import QUESTION
from ressa.data.sample import Question


def read_gqa(
    questions: str | Path,
    images: str | Path,
    template: str = QUESTION,
    names: Mapping[str, str] | None = None,
) -> list[Question]:
    """The questions in file order, each with its one answer; kinds are its structural and its semantic type.

    Official files fit as they are, for example `testdev_balanced_questions.json` and the folder `images`.
    """
    folder = ImageFolder(images, names)
    content = read_json(questions)
    found = []
    with expecting("GQA questions", questions):
        for question_id, entry in content.items():
            types = entry.get("types", {})
            found.append(
                Question(
                    image=folder.numbered(entry["imageId"]),
                    prompt=template.replace("{}", entry["question"]),
                    target=entry["answer"],
                    id=question_id,
                    question=entry["question"],
                    answers=(entry["answer"],),
                    kinds=tuple(
                        f"{key}: {types[key]}" for key in ("structural", "semantic") if types.get(key)
                    ),
                )
            )
    return at_least_one(found, "questions", questions)
