"""The objective of models that generate text: the targets' tokens, and the dense model's logits."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ressa.data.batcher import Batcher
from ressa.data.rows import along
from ressa.data.sample import Sample
from ressa.repairing.cached import CachedLogits
from ressa.repairing.config import RepairConfig
from ressa.repairing.forward import Forward, logits_at, logits_of, recorded_outputs
from ressa.repairing.held_back import TokenExamination, examine, loss_by_frequency
from ressa.repairing.losses import (
    IGNORED,
    HiddenStateDistillation,
    LogitDistillation,
    TaskLoss,
    TopKDistillation,
)
from ressa.repairing.objective import Examination, Losses
from ressa.repairing.teacher import Teacher


class Rows(NamedTuple):
    """The supervised positions of a batch, (tokens,) each; those of answers first, those of plain texts behind.

    places: in the flattened (batch, length). targets: the token that each predicts. order: where each stood among them.
    answers: how many are of answers.
    """

    places: Tensor
    targets: Tensor
    order: Tensor
    answers: int


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
        self.selects = self.shift  # a decoder of its own has no positions but the targets'
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
        rows = self._rows(labels)
        ours: list[Tensor] = []
        theirs: list[Tensor] = []
        teacher_logits = None
        if teacher is not None and self.cache is None:
            with recorded_outputs(teacher.network, self.blocks, theirs):
                teacher_logits = self._logits(teacher, teacher.network, inputs, rows, theirs)
            torch.clear_autocast_cache()  # weights cast without gradients are of no use to the student
            theirs = [self._at(states, labels, rows.places) for states in theirs]
        with recorded_outputs(network, self.blocks, ours):
            whole = self._logits(lambda given: student(**given), network, inputs, rows, ours)
        logits = whole.index_select(0, rows.places) if everywhere else whole
        targets = rows.targets
        config = self.config
        mean = self._mean(rows, counts)
        parts: Losses = {}
        if config.task_weight:
            parts["task_loss"] = (config.task_weight, mean(self.task_loss, logits, targets))
        if config.logit_weight and teacher_logits is not None:
            if everywhere or config.kd_reduction == "batch":
                count = samples if config.kd_reduction == "batch" else positions
                divergence = self.logit_loss(whole, teacher_logits, targets, count)
            else:
                divergence = mean(self.logit_loss, logits, teacher_logits, targets)
            parts["kd_loss"] = (config.logit_weight, divergence)
        elif config.logit_weight and self.cache is not None:
            known = [part[rows.order] for part in self.cache.rows(numbers.tolist(), logits.device)]
            parts["kd_loss"] = (config.logit_weight, mean(self.known_loss, logits, *known))
        if config.hidden_weight:
            ours = [self._at(states, labels, rows.places) for states in ours]
            tokens = (counts[0] + counts[1]).clamp_min(1)
            parts["hidden_loss"] = (config.hidden_weight, self.hidden_loss(ours, theirs, targets, tokens))
        return parts

    def _plain(self, labels: Tensor) -> Tensor:
        """Which rows (batch,) are plain text: all label, but for a token that begins it."""
        return (labels[:, :2] != IGNORED).any(1) & self.shift

    def _rows(self, labels: Tensor) -> Rows:
        targets = labels
        if self.shift:
            targets = nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
        index = (targets != IGNORED).flatten().nonzero()[:, 0]
        is_text = self._plain(labels).repeat_interleave(labels.shape[1])[index]
        order = is_text.int().argsort(stable=True)
        index = index[order]
        return Rows(index, targets.flatten()[index], order, len(index) - int(is_text.sum()))

    def _at(self, values: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        """The rows of (batch, length, ...) at some positions of the labels, flattened."""
        return along(values, labels).flatten(0, 1).index_select(0, index)

    def _logits(
        self,
        forward: Callable[[dict[str, Any]], Any],
        network: nn.Module,
        inputs: dict[str, Any],
        rows: Rows,
        recorded: list[Tensor],
    ) -> Tensor:
        """Logits (rows, vocabulary) of a forward, in which states are recorded: of the supervised tokens, or of all
        positions where the config wants these."""
        labels = inputs["labels"]
        if self.config.kd_positions == "all":
            return logits_of(forward(inputs)).flatten(0, 1)
        if self.selects:
            try:
                with logits_at(network, rows.places, (labels.shape[0], labels.shape[1])) as selected:
                    logits = logits_of(forward(inputs))
                if not selected:
                    return self._at(logits, labels, rows.places)
                if logits.shape[:2] == (1, len(rows.places)):
                    return logits[0]
            except (ValueError, IndexError, RuntimeError):
                pass  # what is wrong for another reason is wrong below, too
            self.selects = False  # a family that looks at all logits itself
            recorded.clear()
        return self._at(logits_of(forward(inputs)), labels, rows.places)

    def _mean(self, rows: Rows, counts: Tensor) -> Callable[..., Tensor]:
        """A loss, and what it is of → the mean over the answers' tokens; where there are plain texts the mean over
        theirs too, each weighed by how many samples of the kind the step has."""
        answers, texts, samples, plain, _ = counts
        share = plain / samples.clamp_min(1)
        if rows.answers == len(rows.places):
            return lambda loss, *values: (1 - share) * loss(*values, answers.clamp_min(1))
        weights = torch.cat(
            [
                ((1 - share) / answers.clamp_min(1)).expand(rows.answers),
                (share / texts.clamp_min(1)).expand(len(rows.places) - rows.answers),
            ]
        )
        return lambda loss, *values: loss(*values, weights=weights)

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
