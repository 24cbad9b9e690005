"""VQAv2 and OK-VQA: a questions file and an annotations file with ten people's answers to each question."""

from collections.abc import Mapping
from pathlib import Path

from ressa.data.image_folder import ImageFolder
from ressa.data.jsonfile import at_least_one, expecting, read_json
from ressa.data.prompts import QUESTION
from ressa.data.sample import Question


def read_vqa(
    questions: str | Path,
    annotations: str | Path,
    images: str | Path,
    template: str = QUESTION,
    names: Mapping[str, str] | None = None,
) -> list[Question]:
    """The questions that have answers, in file order.

    Official files fit as they are, for example `v2_OpenEnded_mscoco_val2014_questions.json`,
    `v2_mscoco_val2014_annotations.json` and the folder `val2014` (OK-VQA likewise). `template` has one `{}`
    for the question; `names` maps image ids to file names where these do not end in the id. The target is the
    answer most people gave.
    """
    folder = ImageFolder(images, names)
    asked, answered = read_json(questions), read_json(annotations)
    with expecting("VQAv2 annotations", annotations):
        by_id = {annotation["question_id"]: annotation for annotation in answered["annotations"]}
    found = []
    with expecting("VQAv2 questions and annotations", questions):
        for question in asked["questions"]:
            annotation = by_id.get(question["question_id"])
            if annotation is None:
                continue
            answers = tuple(answer["answer"] for answer in annotation["answers"])
            found.append(
                Question(
                    image=folder.numbered(question["image_id"]),
                    prompt=template.replace("{}", question["question"]),
                    target=annotation.get("multiple_choice_answer") or most_common(answers),
                    id=str(question["question_id"]),
                    question=question["question"],
                    answers=answers,
                    kinds=(annotation["question_type"],) if "question_type" in annotation else (),
                    answer_type=annotation.get("answer_type", ""),
                )
            )
    return at_least_one(found, "questions with answers", questions)


def most_common(answers: tuple[str, ...]) -> str:
    """The answer given most often; among equals the one that comes first."""
    return max(answers, key=answers.count)
