"""VQAv2 and OK-VQA: a questions file and an annotations file with ten people's answers to each question.

VQAv2's archives unpack to `v2_OpenEnded_mscoco_val2014_questions.json` and `v2_mscoco_val2014_annotations.json`,
OK-VQA's to the same names without `v2_`. The pictures are COCO's of 2014. Questions of the test splits have no
public answers.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ressa.data.faults import Faults, collecting
from ressa.data.formats.coco import folders_of
from ressa.data.formats.part import Part, Reading
from ressa.data.image_folder import ImageFolder, image_folder
from ressa.data.jsonfile import lists
from ressa.data.numbering import Numbering, ids_in
from ressa.data.prompts import QUESTION
from ressa.data.sample import Question
from ressa.data.tree import Tree
from ressa.data.values import answer, field, fields, identity, items, text, texts
from ressa.errors import UsageError

_QUESTIONS = re.compile(r"(v2_)?OpenEnded_mscoco_((train|val)2014)_questions\.json")


def find(tree: Tree) -> Iterator[Part]:
    for file in tree.files(".json"):
        if found := _QUESTIONS.fullmatch(file.name):
            version, own, split = found.groups()
            answers = f"{version or ''}mscoco_{own}_annotations.json"
            beside = [path for path in tree.files(".json") if path.name == answers]
            if beside:
                task, name = ("vqa", "VQAv2") if version else ("okvqa", "OK-VQA")
                images = tree.pictures(file, *folders_of(own))
                nearest = next((path for path in beside if path.parent == file.parent), beside[0])
                yield Part(task, split, name, (file, nearest), _read, images, own, own)


def _read(reading: Reading, part: Part) -> Sequence[Question]:
    questions, annotations = part.files
    return read_vqa(questions, annotations, part.pictures(reading), reading.question, None, reading.faults)


def read_vqa(
    questions: str | Path,
    annotations: str | Path,
    images: str | Path | ImageFolder,
    template: str = QUESTION,
    names: Mapping[str, str] | None = None,
    faults: Faults | None = None,
) -> list[Question]:
    """The questions that have answers, in file order; how many have none is said.

    Official files fit as they are, for example `v2_OpenEnded_mscoco_val2014_questions.json`,
    `v2_mscoco_val2014_annotations.json` and the folder `val2014` (OK-VQA likewise). `template` has one `{}`
    for the question; `names` maps image ids to file names where these do not end in the id. The target is the
    answer most people gave. faults: where to put what cannot be used; by default that raises UsageError.
    """
    (asked,) = lists(questions, "VQAv2 questions", "questions")
    (answered,) = lists(annotations, "VQAv2 annotations", "annotations")
    pictures = Numbering("COCO", image_folder(images), ids_in(asked, "image_id"), names)
    entries: dict[str, tuple[int, dict[str, Any]]] = {}
    found: list[Question] = []
    seen: set[str] = set()
    with collecting(faults) as collected:
        for place, entry in enumerate(answered):
            with collected.at(annotations, "annotations", place):
                key = identity(field(fields(entry), "question_id"), "the question_id")
                if key in entries:
                    raise UsageError(f"an annotation before it answers question {key}, too")
                entries[key] = place, entry
        for place, entry in enumerate(asked):
            with collected.at(questions, "questions", place):
                key = identity(field(fields(entry), "question_id"), "the question_id")
                if key in seen:
                    raise UsageError(f"a question before it has the id {key}, too")
                seen.add(key)
                if key in entries:
                    question = text(field(entry, "question"), "the question")
                    image = pictures.find(identity(field(entry, "image_id"), "the image_id"))
                    number, annotation = entries[key]
                    with collected.at(annotations, "annotations", number):
                        prompt = template.replace("{}", question)
                        found.append(_question(key, question, prompt, image, annotation))
        collected.leave_out(
            questions, len(seen - entries.keys()), f"questions without answers in {annotations}"
        )
        collected.leave_out(annotations, len(entries.keys() - seen), f"answers to no question of {questions}")
        return collected.some(found, "questions with answers", questions)


def _question(key: str, question: str, prompt: str, image: Path, annotation: dict[str, Any]) -> Question:
    given = items(field(annotation, "answers"), "answers")
    answers = tuple(
        answer(field(fields(each, "an answer"), "answer"), "an answer", may_be_empty=True) for each in given
    )
    if not any(each.strip() for each in answers):
        raise UsageError("nobody answers: its answers are empty")
    chosen = annotation.get("multiple_choice_answer")
    return Question(
        image=image,
        prompt=prompt,
        target=answer(chosen, "the multiple_choice_answer") if chosen else most_common(answers),
        id=key,
        question=question,
        answers=answers,
        kinds=texts(annotation.get("question_type"), "the question_type"),
        answer_type=" ".join(texts(annotation.get("answer_type"), "the answer_type")),
    )


def most_common(answers: tuple[str, ...]) -> str:
    """The answer given most often, an empty one aside; among equals the one that comes first."""
    return max(filter(str.strip, answers), key=answers.count)
