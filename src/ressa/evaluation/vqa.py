"""Questions and answers: VQAv2, OK-VQA and GQA."""

from collections.abc import Callable, Sequence
from typing import Any

from ressa.data import Batcher, Question
from ressa.evaluation.decoding import Decoding
from ressa.evaluation.generation import generate
from ressa.evaluation.kept import Answers
from ressa.evaluation.metrics.exact_match import exact_match
from ressa.evaluation.metrics.vqa_accuracy import vqa_accuracy

TITLES = {"vqa": "VQAv2 questions", "okvqa": "OK-VQA questions", "gqa": "GQA questions"}


def answer_questions(
    task: str,
    model: Any,
    batcher: Batcher,
    questions: Sequence[Question],
    *,
    decoding: Decoding,
    batch_size: int,
    answers: Answers | None = None,
) -> dict[str, Any]:
    """Generate an answer to each question and score it.

    Returns score (0–100), n, kinds: {kind: {score, n}} and, for VQAv2's data, answer_types: likewise.

    `task` is vqa or okvqa (official VQA accuracy) or gqa (exact match).
    """
    predictions = generate(
        model,
        batcher,
        questions,
        **decoding.answers(),
        batch_size=batch_size,
        answers=answers,
        description=f"Answering {TITLES[task]}",
    )
    accuracy: Callable[[str, Question], float] = _gqa_accuracy if task == "gqa" else _vqa_accuracy
    hits = [accuracy(said, question) for said, question in zip(predictions, questions, strict=True)]
    result: dict[str, Any] = {"score": _percent(hits), "n": len(hits)}
    result["kinds"] = _apart(hits, [question.kinds for question in questions])
    if any(question.answer_type for question in questions):
        result["answer_types"] = _apart(hits, [(question.answer_type,) for question in questions])
    return result


def _vqa_accuracy(prediction: str, question: Question) -> float:
    return vqa_accuracy(prediction, question.answers)


def _gqa_accuracy(prediction: str, question: Question) -> float:
    return exact_match(prediction, question.answers[0])


def _apart(hits: Sequence[float], kinds: Sequence[Sequence[str]]) -> dict[str, dict[str, float]]:
    groups: dict[str, list[float]] = {}
    for hit, named in zip(hits, kinds, strict=True):
        for kind in named:
            groups.setdefault(kind, []).append(hit)
    return {kind: {"score": _percent(groups[kind]), "n": len(groups[kind])} for kind in sorted(groups)}


def _percent(hits: Sequence[float]) -> float:
    return 100 * sum(hits) / len(hits)
