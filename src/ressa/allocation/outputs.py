"""What a model puts out on calibration samples: its loss, and how far its words are from the dense model's."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ressa.errors import UsageError
from ressa.misfit import misfit_told

IGNORED = -100


class Outputs:
    """The model's logits at supervised tokens, batch by batch.

    batches: model inputs with `labels`, as `Batcher.training` makes them. device: where the model is moved.
    Raises UsageError if no token is supervised.
    """

    def __init__(
        self,
        model: Any,
        batches: Sequence[Mapping[str, Tensor]],
        device: torch.device | str | None = None,
    ) -> None:
        self.model = model if device is None else model.to(device)
        if not batches or not all("labels" in batch for batch in batches):
            raise UsageError(
                "Allocation measures the model's words, and the calibration set has none: give samples with "
                "targets to a model that writes text."
            )
        text = model.config.get_text_config()
        self.shift = not (model.config.is_encoder_decoder or text.is_encoder_decoder)
        self.batches = [
            {
                name: value.to(model.device, model.dtype if value.is_floating_point() else None)
                for name, value in batch.items()
            }
            for batch in batches
        ]
        self.tokens = [int((self._labels(batch) != IGNORED).sum()) for batch in self.batches]
        if not all(self.tokens):
            raise UsageError("Some calibration samples have no target token: give each sample a target.")
        self._dense: list[Tensor] = []

    def _labels(self, batch: Mapping[str, Tensor]) -> Tensor:
        return batch["labels"][:, 1:] if self.shift else batch["labels"]

    def logits(self, index: int) -> Tensor:
        """fp32 (tokens, vocabulary) at the supervised tokens of one batch."""
        batch = self.batches[index]
        with misfit_told():
            logits = getattr(self.model(**batch), "logits", None)
        if logits is None:
            raise UsageError(
                f"{type(self.model).__name__} gives no logits for its words, so nothing can be measured on it: "
                "use the allocation uniform or owl."
            )
        labels = self._labels(batch)
        rows = logits[:, :-1] if self.shift else logits
        return rows[:, -labels.shape[1] :][labels != IGNORED].float()

    def task_loss(self, index: int) -> Tensor:
        """Cross-entropy of the targets, mean over the supervised tokens of one batch."""
        labels = self._labels(self.batches[index])
        return F.cross_entropy(self.logits(index), labels[labels != IGNORED])

    @torch.no_grad()
    def remember(self) -> None:
        """Take the model as it is now for the dense one, to which `distance` compares."""
        self._dense = [F.log_softmax(self.logits(i), -1) for i in range(len(self.batches))]

    def distance(self, index: int) -> Tensor:
        """KL(dense ‖ model) over the vocabulary, mean over the supervised tokens of one batch, in nats."""
        now = F.log_softmax(self.logits(index), -1)
        return F.kl_div(now, self._dense[index], reduction="batchmean", log_target=True)

    @torch.no_grad()
    def mean_distance(self, indices: Sequence[int] | None = None) -> float:
        """KL(dense ‖ model), mean over the supervised tokens of some batches or of all."""
        chosen = range(len(self.batches)) if indices is None else indices
        total = sum(self.distance(i).item() * self.tokens[i] for i in chosen)
        return total / sum(self.tokens[i] for i in chosen)


@contextmanager
def quiet(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradient for any parameter; both as before afterwards."""
    training = [(part, part.training) for part in model.modules()]
    wanting = [p for p in model.parameters() if p.requires_grad]
    try:
        model.eval()
        for parameter in wanting:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in wanting:
            parameter.requires_grad_(True)
        for part, was in training:
            part.training = was
