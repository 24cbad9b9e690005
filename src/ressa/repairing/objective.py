"""What a repair learns and how it is told whether that worked: what differs between kinds of models.

`TokenObjective` is for models that generate text, `PairObjective` for dual encoders.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from ressa.data.sample import Sample
from ressa.repairing.forward import Forward
from ressa.repairing.teacher import Teacher

Losses = dict[str, tuple[float, Tensor]]  # name → weight, value


class Examination(Protocol):
    """How one model does on the samples held back.

    loss: the lower, the better. answers: float32 (samples,), how right each is, from 0 to 1.
    """

    @property
    def loss(self) -> float: ...

    @property
    def answers(self) -> Tensor: ...

    def scores(self) -> dict[str, float]:
        """JSON-able; `loss` and shares in per cent."""


class Batches(Protocol):
    """Makes inputs of samples."""

    def training(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """What the objective's losses take."""

    def forwards(self, samples: Sequence[Sample]) -> list[dict[str, Tensor]]:
        """The inputs of each forward that such samples take."""


class Objective(Protocol):
    """name: what is learned, in a word. batcher: makes the batches of a training run. numbered: whether they have
    `sample_numbers` (batch,). unit: of the loss, as it is told. answer: what a right answer is called. end: what
    targets are taught to end with, and who says so; empty where there is no such thing."""

    name: str
    numbered: bool
    unit: str
    answer: str
    end: str

    @property
    def batcher(self) -> Batches: ...

    def counts(self, batches: Sequence[Mapping[str, Any]]) -> Tensor:
        """What the losses of some batches are means over, as a tensor whose entries add up over processes."""

    def losses(
        self,
        student: nn.Module,
        network: nn.Module,
        teacher: Teacher | None,
        inputs: dict[str, Any],
        counts: Tensor,
    ) -> Losses:
        """The losses of a batch, each a sum divided by one of `counts`. network: the student, not wrapped."""

    def examine(
        self, model: nn.Module, samples: Sequence[Sample], forward: Forward, batch_size: int, name: str
    ) -> Examination:
        """Try the `name` model (dense, pruned, repaired) on samples, without gradients, where repair computes."""

    def baseline(self, known: Sequence[Sample], asked: Sequence[Sample]) -> float:
        """The loss of someone who sees no picture: any model that understands its task is below."""

    def doubts(self, dense: Examination, baseline: float) -> str:
        """What to say of a dense model that is not below the baseline."""
