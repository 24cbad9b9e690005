"""The objective of models that generate text: the targets' tokens, and the dense model's logits."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ressa.data.batcher import Batcher
from ressa.data.sample import Sample
from ressa.repairing.cached import CachedLogits
from ressa.repairing.config import RepairConfig
from ressa.repairing.forward import Forward, logits_of, recorded_outputs
from ressa.repairing.held_back import TokenExamination, examine, loss_by_frequency
from ressa.repairing.losses import (
    IGNORED,
    HiddenStateDistillation,
    LogitDistillation,
    TaskLoss,
    TopKDistillation,
    align,
)
from ressa.repairing.objective import Examination, Losses
from ressa.repairing.teacher import Teacher

Kind = tuple[slice | Tensor, Tensor, Tensor]
"""Tokens of one kind: which rows they are, what their mean weighs, and how many the whole step has."""


class TokenObjective:
    """(1−λ)·task + λ·KL(teacher ‖ student) + μ·hidden states, means over the supervised tokens; the KL over what the
    config says.

    Where plain texts are mixed in, the mean over their tokens and the mean over the answers' are weighed by how many
    samples of each kind a step has. All of a text is learned, and a few words of an answer: over the tokens together a
    quarter of texts would be nine tenths of the loss.

    Args:
        batcher: makes the batches, and says whether logits predict the next label or their own.
        config: weights, temperature and forms of the losses.
        cache: the teacher's logits on disk, in the teacher's place.
        blocks: names of the blocks whose outputs hidden-state distillation compares.
    """

    name = "words"
    unit = "nats a token"
    answer = "right answers"

    def __init__(
        self,
        batcher: Batcher,
        config: RepairConfig,
        *,
        cache: CachedLogits | None = None,
        blocks: Sequence[str] = (),
    ) -> None:
        self.batcher = batcher
        self.config = config
        self.shift = not batcher.encoder_decoder
        self.cache = cache
        self.numbered = cache is not None
        self.end = str(batcher.text.end or "")
        self.blocks = list(blocks) if config.hidden_weight else []
        self.task_loss = TaskLoss()
        self.logit_loss = LogitDistillation(
            config.temperature, config.kd_reduction, positions=config.kd_positions, scaled=config.kd_scaled
        )
        self.known_loss = TopKDistillation(config.temperature, scaled=config.kd_scaled)
        self.hidden_loss = HiddenStateDistillation()

    def counts(self, batches: Sequence[Mapping[str, Any]]) -> Tensor:
        """Supervised tokens of answers and of plain texts, samples, plain texts among them, and positions, (5,)."""
        labels = [batch["labels"] for batch in batches]
        plain = [self._plain(x) for x in labels]
        tokens = [((x[:, 1:] if self.shift else x) != IGNORED).sum(1) for x in labels]
        texts = sum(int(each[rows].sum()) for each, rows in zip(tokens, plain, strict=True))
        answers = sum(int(each.sum()) for each in tokens) - texts
        many = sum(len(x) for x in labels), sum(int(rows.sum()) for rows in plain)
        return torch.tensor([answers, texts, *many, sum(x.numel() for x in labels)])

    def losses(
        self,
        student: nn.Module,
        network: nn.Module,
        teacher: Teacher | None,
        inputs: dict[str, Any],
        counts: Tensor,
    ) -> Losses:
        labels = inputs["labels"]
        numbers = inputs.pop("sample_numbers", None)
        samples, positions = counts[2].clamp_min(1), counts[4].clamp_min(1)
        everywhere = self.config.kd_positions == "all"
        ours: list[Tensor] = []
        theirs: list[Tensor] = []
        teacher_logits = None
        if teacher is not None and self.cache is None:
            with recorded_outputs(teacher.network, self.blocks, theirs):
                teacher_logits = logits_of(teacher(inputs))
            teacher_logits = (
                teacher_logits.flatten(0, 1) if everywhere else self._positions(teacher_logits, labels)[0]
            )
            torch.clear_autocast_cache()  # weights cast without gradients are of no use to the student
            theirs = [self._positions(states, labels)[0] for states in theirs]
        with recorded_outputs(network, self.blocks, ours):
            outputs = student(**inputs)
        whole = logits_of(outputs)
        logits, targets = self._positions(whole, labels)
        config = self.config
        kinds = self._kinds(labels, counts)
        parts: Losses = {}
        if config.task_weight:
            parts["task_loss"] = (config.task_weight, _mean(self.task_loss, (logits, targets), kinds))
        if config.logit_weight and teacher_logits is not None:
            if everywhere or config.kd_reduction == "batch":
                count = samples if config.kd_reduction == "batch" else positions
                distilled = whole.flatten(0, 1) if everywhere else logits
                divergence = self.logit_loss(distilled, teacher_logits, targets, count)
            else:
                divergence = _mean(self.logit_loss, (logits, teacher_logits, targets), kinds)
            parts["kd_loss"] = (config.logit_weight, divergence)
        elif config.logit_weight and self.cache is not None:
            known = self.cache.rows(numbers.tolist(), logits.device)
            parts["kd_loss"] = (config.logit_weight, _mean(self.known_loss, (logits, *known), kinds))
        if config.hidden_weight:
            ours = [self._positions(states, labels)[0] for states in ours]
            tokens = (counts[0] + counts[1]).clamp_min(1)
            parts["hidden_loss"] = (config.hidden_weight, self.hidden_loss(ours, theirs, targets, tokens))
        return parts

    def _plain(self, labels: Tensor) -> Tensor:
        """Which rows (batch,) are plain text: all label, but for a token that begins it."""
        return (labels[:, :2] != IGNORED).any(1) & self.shift

    def _kinds(self, labels: Tensor, counts: Tensor) -> list[Kind]:
        """The supervised tokens of answers, and of plain texts where the batch has some."""
        answers, texts, samples, plain, _ = counts
        share = plain / samples.clamp_min(1)
        is_text = self._positions(self._plain(labels)[:, None].expand_as(labels), labels)[0]
        if not is_text.any():
            return [(slice(None), 1 - share, answers.clamp_min(1))]
        return [(~is_text, 1 - share, answers.clamp_min(1)), (is_text, share, texts.clamp_min(1))]

    def _positions(self, values: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of (batch, length, ...) whose targets are supervised, with these."""
        rows, targets = align(values, labels, shift=self.shift)
        supervised = targets != IGNORED
        return rows[supervised], targets[supervised]

    def examine(
        self, model: nn.Module, samples: Sequence[Sample], forward: Forward, batch_size: int, name: str
    ) -> TokenExamination:
        return examine(model, self.batcher, samples, forward, batch_size, name)

    def baseline(self, known: Sequence[Sample], asked: Sequence[Sample]) -> float:
        return loss_by_frequency(self.batcher, known, asked)

    def doubts(self, dense: Examination, baseline: float) -> str:
        return (
            f"The dense model itself loses {dense.loss:.2f} nats a token on {len(dense.answers)} samples held back, no "
            f"less than the {baseline:.2f} of knowing only how often each token occurs: these prompts or targets "
            "are not what it was trained on, and repair would teach them to it; check the data and the processor."
        )


def _mean(loss: Callable[..., Tensor], rows: Sequence[Tensor], kinds: Sequence[Kind]) -> Tensor:
    """A loss of rows (tokens, ...), the weighed sum of each kind's mean."""
    return torch.stack(
        [share * loss(*(each[chosen] for each in rows), count) for chosen, share, count in kinds]
    ).sum()
