"""Questions that are answered in words."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ressa.data import Question
from ressa.data.prefixes import read_question
from ressa.evaluation.metrics.answerability import average_precision, f1_score
from ressa.evaluation.metrics.normalising import normalise
from ressa.evaluation.metrics.yes_no import says_yes, yes_no_scores
from ressa.evaluation.protocols import Settings
from ressa.evaluation.tasks.base import Asking, Task, apart, percent

Accuracy = Callable[[str, Sequence[str]], float]

METRIC_TITLES = {"lavis": "LAVIS", "llava": "LLaVA", "normalised": "normalised"}


class Questions(Task):
    """Answers in words, each scored against those that people gave.

    metrics: name → accuracy in [0, 1] of a prediction against the answers; `official` has to be there, and stands in
    for a form that this task does not have. The result names the form where it is another: `metric`.
    """

    def __init__(self, name: str, title: str, metrics: Mapping[str, Accuracy]) -> None:
        super().__init__(name, f"Answering {title} questions")
        self.metrics = metrics

    def read(self, folder: Any, split: str) -> Sequence[Question]:
        return [question for question in super().read(folder, split) if question.answers]

    def put(self, sample: Question, settings: Settings) -> list[Question]:
        question = read_question(sample.question) if settings.question_text == "blip" else sample.question
        return [replace(sample, prompt=settings.prompt.replace("{}", question))]

    def ask(self, asking: Asking, samples: Sequence[Question]) -> list[str]:
        return asking.generate(samples, self.doing)

    def score(
        self, predictions: Sequence[str], samples: Sequence[Question], settings: Settings
    ) -> dict[str, Any]:
        """score (0–100), n, kinds: {kind: {score, n}} and, where the data names them, answer_types: likewise."""
        name = settings.metric if settings.metric in self.metrics else "official"
        accuracy = self.metrics[name]
        hits = [accuracy(said, sample.answers) for said, sample in zip(predictions, samples, strict=True)]
        result: dict[str, Any] = {"score": percent(hits), "n": len(hits)}
        if name != "official":
            result["metric"] = METRIC_TITLES[name]
        result["kinds"] = apart(hits, [sample.kinds for sample in samples])
        if any(sample.answer_type for sample in samples):
            result["answer_types"] = apart(hits, [(sample.answer_type,) for sample in samples])
        return result

    def references(self, sample: Question) -> list[str]:
        return list(sample.answers)


class AnswerableQuestions(Questions):
    """VizWiz: the score says besides how well a model knows what cannot be answered.

    `unanswerable`: F1 and average precision (0–100) of answering "unanswerable" to the questions of that answer type.
    """

    def score(
        self, predictions: Sequence[str], samples: Sequence[Question], settings: Settings
    ) -> dict[str, Any]:
        lacking = [sample.answer_type == "unanswerable" for sample in samples]
        said = [normalise(text) == "unanswerable" for text in predictions]
        found = {
            "f1": 100 * f1_score(lacking, said),
            "average_precision": 100 * average_precision(lacking, [float(each) for each in said]),
            "n": sum(lacking),
        }
        return {**super().score(predictions, samples, settings), "unanswerable": found}


class YesOrNo(Questions):
    """POPE: accuracy as the score; precision, recall and f1 of the yes answers and yes_ratio, each kind apart."""

    def score(
        self, predictions: Sequence[str], samples: Sequence[Question], settings: Settings
    ) -> dict[str, Any]:
        pairs = [
            (says_yes(text), sample.answers[0] == "yes")
            for text, sample in zip(predictions, samples, strict=True)
        ]
        result = _yes_no(pairs)
        kinds = sorted({kind for sample in samples for kind in sample.kinds})
        result["kinds"] = {
            kind: _yes_no([pair for pair, sample in zip(pairs, samples, strict=True) if kind in sample.kinds])
            for kind in kinds
        }
        return result


def _yes_no(pairs: Sequence[tuple[bool, bool]]) -> dict[str, Any]:
    scores = yes_no_scores([said for said, _ in pairs], [right for _, right in pairs])
    return {"score": scores.pop("accuracy"), "n": len(pairs), **scores}


def right_or_wrong(match: Callable[[str, str], float]) -> Accuracy:
    """The accuracy of a prediction where there is one answer."""
    return lambda said, answers: match(said, answers[0])
