"""What all tasks have in common."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ressa.data import DatasetFolder
from ressa.evaluation.kept import Answers
from ressa.evaluation.protocols import Settings

if TYPE_CHECKING:
    from ressa.data import Batcher


@dataclass(frozen=True)
class Asking:
    """Whom a task asks, and how. answers: what an earlier run was told already, and where to keep the rest."""

    model: Any
    processor: Any
    settings: Settings
    batch_size: int
    answers: Answers

    @cached_property
    def batcher(self) -> "Batcher":
        from ressa.data import Batcher

        return Batcher(self.processor, self.model.config, getattr(self.model, "generation_config", None))

    def generate(self, samples: Sequence[Any], description: str) -> list[str]:
        """The model's text for each sample, without space at the ends."""
        from ressa.evaluation.generation import generate

        texts = generate(
            self.model,
            self.batcher,
            samples,
            **self.settings.generation(),
            batch_size=self.batch_size,
            description=description,
            answers=self.answers,
        )
        return [text.strip() for text in texts]


class Task(ABC):
    """Samples in, predictions out, and from these a score. Nothing here keeps state, and none of it needs PyTorch but
    `ask`.

    name: the task's. data: the task of the data folder whose samples it asks about. doing: what progress calls it.
    """

    def __init__(self, name: str, doing: str, *, data: str | None = None) -> None:
        self.name = name
        self.doing = doing
        self.data = data or name

    def read(self, folder: DatasetFolder, split: str) -> Sequence[Any]:
        """The samples of a split that this task can ask about."""
        return folder.samples(self.data, split)

    @abstractmethod
    def put(self, sample: Any, settings: Settings) -> list[Any]:
        """The sample with the prompt of these settings; several where it is asked in several ways."""

    @abstractmethod
    def ask(self, asking: Asking, samples: Sequence[Any]) -> list[Any]:
        """One prediction for each sample, as JSON-able data; in every process all of them."""

    @abstractmethod
    def score(self, predictions: Sequence[Any], samples: Sequence[Any], settings: Settings) -> dict[str, Any]:
        """`score` (0–100, or above for CIDEr-D), `n`, and what else the task tells, JSON-able."""

    @abstractmethod
    def references(self, sample: Any) -> list[str]:
        """What the predictions of a sample are compared with."""

    def adopt(self, said: Any, sample: Any) -> Any:
        """A prediction of this task, from what the data set's own tool takes for one."""
        return said

    def accepts(self, prediction: Any, sample: Any) -> bool:
        """Whether this is what `ask` may have given for the sample; by default a text."""
        return isinstance(prediction, str)

    def refuse(self, samples: Sequence[Any]) -> str | None:
        """Why these samples cannot be scored, as a sentence; None where they can."""
        return None


def is_rank(value: Any) -> bool:
    """Whether it is a `metrics.recall.Rank` as JSON has it: right ones among equals, and any number of better ones."""
    if not isinstance(value, dict) or value.keys() != {"better", "equal", "right"}:
        return False
    counts = value["better"], value["equal"], value["right"]
    return all(type(count) is int for count in counts) and counts[0] >= 0 and 1 <= counts[2] <= counts[1]


def percent(values: Sequence[float]) -> float:
    """The mean of values in [0, 1], as 0–100."""
    return 100 * sum(values) / len(values)


def apart(hits: Sequence[float], kinds: Sequence[Sequence[str]]) -> dict[str, dict[str, float]]:
    """Kind → {score, n}; a sample may be of several kinds."""
    groups: dict[str, list[float]] = {}
    for hit, named in zip(hits, kinds, strict=True):
        for kind in named:
            groups.setdefault(kind, []).append(hit)
    return {kind: {"score": percent(groups[kind]), "n": len(groups[kind])} for kind in sorted(groups)}
