"""Questions with options to choose from."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ressa.data import Question
from ressa.evaluation.metrics.choices import LETTERS, chosen_letter, likeliest
from ressa.evaluation.protocols import Settings
from ressa.evaluation.tasks.base import Asking, Task, apart, percent

ROTATED = "#"  # between the id of a question and how far its options are rotated


class Choices(Task):
    """Multiple choice. A prediction is the log-likelihood of each option, or the text that was generated.

    score: the share of right choices, 0–100; n; kinds. unreadable: how many generated answers name no option.
    """

    def read(self, folder: Any, split: str) -> Sequence[Question]:
        return [
            question
            for question in super().read(folder, split)
            if question.choices and question.correct is not None
        ]

    def put(self, sample: Question, settings: Settings) -> list[Question]:
        if not settings.circular:
            return [_put(sample, settings)]
        count, correct = len(sample.choices), sample.correct or 0
        return [
            _put(
                replace(
                    sample,
                    id=f"{sample.id}{ROTATED}{turn}" if turn else sample.id,
                    choices=sample.choices[turn:] + sample.choices[:turn],
                    correct=(correct - turn) % count,
                ),
                settings,
            )
            for turn in range(count)
        ]

    def ask(self, asking: Asking, samples: Sequence[Question]) -> list[Any]:
        if asking.settings.choose == "generated":
            return asking.generate(samples, self.doing)
        from ressa.evaluation.likelihood import score_options

        options = [_options(sample, asking.settings) for sample in samples]
        return score_options(asking, samples, options, self.doing)

    def score(
        self, predictions: Sequence[Any], samples: Sequence[Question], settings: Settings
    ) -> dict[str, Any]:
        chosen = [
            chosen_letter(said, len(sample.choices)) if isinstance(said, str) else likeliest(said)
            for said, sample in zip(predictions, samples, strict=True)
        ]
        right: dict[str, bool] = {}  # question → right in all of its rotations
        kinds: dict[str, tuple[str, ...]] = {}
        for place, sample in zip(chosen, samples, strict=True):
            key = (
                sample.id.rpartition(ROTATED)[0] if settings.circular and ROTATED in sample.id else sample.id
            )
            right[key] = right.get(key, True) and place == sample.correct
            kinds[key] = sample.kinds
        hits = [float(each) for each in right.values()]
        result: dict[str, Any] = {"score": percent(hits), "n": len(hits)}
        if settings.circular:
            result["metric"] = "circular"
        if settings.choose == "generated":
            result["unreadable"] = chosen.count(None)
        result["kinds"] = apart(hits, list(kinds.values()))
        return result

    def adopt(self, said: Any, sample: Question) -> Any:
        """Options are named by what they say."""
        return [float(choice == said) for choice in sample.choices] if said in sample.choices else said

    def accepts(self, prediction: Any, sample: Question) -> bool:
        if not isinstance(prediction, list):
            return isinstance(prediction, str)
        return len(prediction) == len(sample.choices) and all(isinstance(x, int | float) for x in prediction)

    def is_right(self, place: int | None, sample: Question) -> bool:
        """Whether the chosen option is the right one."""
        return place == sample.correct

    def references(self, sample: Question) -> list[str]:
        return [*sample.choices, str(sample.correct)]


class AOKVQAChoices(Choices):
    """A-OKVQA's tool compares what the options say, so one that says the same as the right one is right."""

    def is_right(self, place: int | None, sample: Question) -> bool:
        return place is not None and sample.choices[place] == sample.choices[sample.correct or 0]


class MMBench(Choices):
    """Its files hold each question in every rotation of its options, 1,000,000 being added to the index of the others:
    these are left out, and made anew where they are asked for."""

    def read(self, folder: Any, split: str) -> Sequence[Question]:
        return [
            question
            for question in super().read(folder, split)
            if not (question.id.isdecimal() and int(question.id) >= 1_000_000)
        ]


def _put(sample: Question, settings: Settings) -> Question:
    letters, choices = _letters(settings), sample.choices
    if settings.options == "lines":
        options = "\n".join(f"{letter}. {choice}" for letter, choice in zip(letters, choices, strict=False))
    else:
        options = " ".join(f"({letter}) {choice}" for letter, choice in zip(letters, choices, strict=False))
    before, after = settings.prompt.split("{}")
    before, after = (part.replace("{options}", options) for part in (before, after))
    told = settings.context.replace("{}", sample.context) if sample.context.strip() else ""
    return replace(sample, prompt=f"{told}{before}{sample.question}{after}")


def _letters(settings: Settings) -> str:
    return LETTERS if settings.options == "lines" else LETTERS.lower()


def _options(sample: Question, settings: Settings) -> list[str]:
    """What is scored for each option: its text or its letter."""
    if settings.choose == "text":
        return list(sample.choices)
    return list(_letters(settings)[: len(sample.choices)])
