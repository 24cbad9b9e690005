"""The objective of models that generate text: the targets' tokens, and the dense model's logits."""

from collections.abc import Mapping, Sequence
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


class TokenObjective:
    """(1−λ)·task + λ·KL(teacher ‖ student) + μ·hidden states, means over the supervised tokens; the KL over what the
    config says.

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
        """Supervised tokens, samples and positions, (3,)."""
        labels = [batch["labels"] for batch in batches]
        tokens = sum(int(((x[:, 1:] if self.shift else x) != IGNORED).sum()) for x in labels)
        return torch.tensor([tokens, sum(len(x) for x in labels), sum(x.numel() for x in labels)])

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
        tokens, samples, positions = counts
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
        parts: Losses = {}
        if config.task_weight:
            parts["task_loss"] = (config.task_weight, self.task_loss(logits, targets, tokens))
        if config.logit_weight and teacher_logits is not None:
            count = samples if config.kd_reduction == "batch" else positions if everywhere else tokens
            distilled = whole.flatten(0, 1) if everywhere else logits
            divergence = self.logit_loss(distilled, teacher_logits, targets, count)
            parts["kd_loss"] = (config.logit_weight, divergence)
        elif config.logit_weight and self.cache is not None:
            known = self.cache.rows(numbers.tolist(), logits.device)
            parts["kd_loss"] = (config.logit_weight, self.known_loss(logits, *known, tokens))
        if config.hidden_weight:
            ours = [self._positions(states, labels)[0] for states in ours]
            parts["hidden_loss"] = (config.hidden_weight, self.hidden_loss(ours, theirs, targets, tokens))
        return parts

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
