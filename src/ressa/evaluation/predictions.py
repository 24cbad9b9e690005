"""Predictions on disk: a line of JSON that says what made them, and one for each answer."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ressa.data import Question
from ressa.errors import UsageError, brief
from ressa.evaluation.drawing import Drawn
from ressa.evaluation.tasks import task_named
from ressa.files import fresh_file
from ressa.warned import warn

Said = dict[str, dict[str, Any]]
"""Task → id of a sample → its prediction."""

FORMAT = "ressa predictions"
AOKVQA = ("direct_answer", "multiple_choice")


def write_predictions(
    path: Path, drawn: Drawn, predictions: Mapping[str, Sequence[Any]], made: Mapping[str, Any]
) -> None:
    """One line a prediction: task, id, what was asked, the prediction, and what it is compared with.

    made: what the first line says of how they were made.
    """
    with fresh_file(path) as place, place.open("w", encoding="utf-8") as file:
        file.write(json.dumps({FORMAT: 1, **made}, ensure_ascii=False) + "\n")
        for task, samples in drawn.samples.items():
            for sample, prediction in zip(samples, predictions[task], strict=True):
                line = {"task": task, "id": sample.id, "prompt": sample.prompt, "prediction": prediction}
                if isinstance(sample, Question):
                    line["question"] = sample.question
                line["references"] = task_named(task).references(sample)
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class Saved:
    """The predictions of a file, and what it says of how they were made (nothing where others wrote it)."""

    path: Path
    made: dict[str, Any]
    said: Said

    def of(self, drawn: Drawn) -> tuple[Drawn, dict[str, list[Any]]]:
        """The samples that were drawn and are answered here, and their predictions.

        An evaluation that wrote the file may have left out what it could not use; that is said. Raises UsageError where
        results of another's making lack a sample, or a task has none of its.
        """
        samples: dict[str, list[Any]] = {}
        for task, asked in drawn.samples.items():
            said = self.said.get(task, {})
            samples[task] = [sample for sample in asked if sample.id in said]
            missing = [sample.id for sample in asked if sample.id not in said]
            if missing and (not self.made or not samples[task]):
                raise UsageError(
                    f"{self.path} answers {len(samples[task]):,} of {len(asked):,} samples of {task} (not "
                    f"{missing[0]!r}): score it on the data and split that it was made from."
                )
            if missing:
                warn(
                    f"{self.path} has no answer to {len(missing):,} of {len(asked):,} samples of {task}: left out."
                )
        found = {task: [self.said[task][sample.id] for sample in each] for task, each in samples.items()}
        for task, each in found.items():
            accepts, adopt = task_named(task).accepts, task_named(task).adopt
            if not self.made:
                each[:] = [adopt(said, sample) for said, sample in zip(each, samples[task], strict=True)]
            for prediction, sample in zip(each, samples[task], strict=True):
                if not accepts(prediction, sample):
                    raise UsageError(
                        f"{self.path} holds {brief(prediction)} for sample {sample.id!r} of {task}, which is no "
                        "prediction of that task: correct it."
                    )
        return replace(drawn, samples=samples), found


def read_predictions(path: Path, task: str | None = None) -> Saved:
    """Read what `write_predictions` wrote, or results as the data sets' own tools take them.

    Those are JSON: [{"question_id" (or "questionId", "image_id", "id", "image"): …, "answer" (or "prediction",
    "caption", "text"): …}, …], or A-OKVQA's {id: {"direct_answer": …, "multiple_choice": …}, …}; it has to be told of
    which task they are. Raises UsageError for a file that is neither.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error}): name a file of predictions.") from None
    if (results := _results(path, text)) is not None:
        task = _given(path, task)
        return Saved(path, {}, {task: {key: _of_task(said, task) for key, said in results.items()}})
    said: Said = {}
    made: dict[str, Any] = {}
    for number, line in enumerate(text.strip("\n").split("\n")):  # a prediction may hold other line breaks
        try:
            entry = json.loads(line)
            if number == 0:
                made = {FORMAT: entry[FORMAT], **entry}
                if not all(isinstance(made.get(name, {}), dict) for name in ("recipe", "data")):
                    raise TypeError
            else:
                said.setdefault(entry["task"], {})[entry["id"]] = entry["prediction"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UsageError(
                f"Line {number + 1} of {path} is none of a file of predictions: give one that `ressa evaluate` wrote, "
                "or a JSON list of results."
            ) from None
    if not said:
        raise UsageError(f"{path} holds no predictions: give a file that `ressa evaluate` wrote.")
    return Saved(path, made, said)


def _given(path: Path, task: str | None) -> str:
    if task is None:
        raise UsageError(f"{path} does not say of which task its results are: name it with --tasks.")
    return task


def _results(path: Path, text: str) -> dict[str, Any] | None:
    """Id → what is said, of results of another's making; None for a file of predictions. Raises UsageError for what is
    no results."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) and not text.lstrip().startswith("["):
        return None
    if isinstance(content, dict):
        both = bool(content) and all(
            isinstance(each, dict) and {*each} <= {*AOKVQA} for each in content.values()
        )
        return content if both else None
    try:
        found = {}
        for entry in content:
            name = next(
                name for name in ("question_id", "questionId", "image_id", "id", "image") if name in entry
            )
            key = str(entry[name])
            value = next(entry[name] for name in ("answer", "prediction", "caption", "text") if name in entry)
            said = str(value) if isinstance(value, int | float) else value
            found[key.rpartition(".")[0] or key if name == "image" else key] = said
        return found
    except (ValueError, TypeError, StopIteration):
        raise UsageError(
            f'{path} is no list of results: write [{{"question_id": 1, "answer": "a dog"}}, …].'
        ) from None


def _of_task(said: Any, task: str) -> Any:
    """A-OKVQA's results answer both of its tasks."""
    if not isinstance(said, dict):
        return said
    return said.get(AOKVQA[task.endswith("-choice")], said)
