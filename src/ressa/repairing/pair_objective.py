"""The objective of dual encoders: telling which text belongs to which picture, and the dense model's embeddings."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ressa.data.pairs import PairBatcher, negatives
from ressa.data.sample import Sample, image_key
from ressa.dual import DualEncoder, similarity
from ressa.progress import track
from ressa.repairing.config import RepairConfig
from ressa.repairing.forward import Forward, plain
from ressa.repairing.losses import LogitDistillation
from ressa.repairing.objective import Examination, Losses
from ressa.repairing.pair_losses import (
    ContrastiveLoss,
    EmbeddingDistillation,
    MatchingLoss,
    SimilarityDistillation,
    hard_negatives,
)
from ressa.repairing.teacher import Teacher


class PairObjective:
    """(1−λ)·contrastive + λ·KL of similarities + ν·embeddings, means over the pairs of a step.

    Pairs are contrasted within a forward pass, that of one process and `batch_size` pairs. Models with an image-text
    matching (ITM) head learn to tell each pair from two hard negatives, too, one with another text and one with another
    picture, with the same weights: (1−λ)·cross-entropy + λ·KL.
    """

    name = "pairs"
    unit = "nats a pair"
    answer = "right partners at rank 1"
    numbered = False
    end = ""

    def __init__(self, batcher: PairBatcher, encoder: DualEncoder, config: RepairConfig) -> None:
        self.batcher = batcher
        self.encoder = encoder
        self.config = config
        self.contrastive = ContrastiveLoss(encoder.loss)
        self.similarities = SimilarityDistillation(config.temperature)
        self.embeddings = EmbeddingDistillation()
        self.matching = MatchingLoss()
        self.matching_logits = LogitDistillation(config.temperature)

    def counts(self, batches: Sequence[Mapping[str, Any]]) -> Tensor:
        """Pairs, (1,)."""
        return torch.tensor([sum(len(batch["negatives"]) for batch in batches)])

    def losses(
        self,
        student: nn.Module,
        network: nn.Module,
        teacher: Teacher | None,
        inputs: dict[str, Any],
        counts: Tensor,
    ) -> Losses:
        config, encoder, apart, count = self.config, self.encoder, inputs["negatives"], counts[0].clamp_min(1)
        theirs = None
        if teacher is not None:
            with torch.no_grad():
                theirs = encoder.embed(teacher, plain(teacher.network), inputs)
            torch.clear_autocast_cache()  # weights cast without gradients are of no use to the student
        ours = encoder.embed(lambda given: student(**given), plain(network), inputs)
        logits = encoder.logits(ours.similarity())
        parts: Losses = {}
        if config.task_weight:
            parts["task_loss"] = (config.task_weight, self.contrastive(logits, apart, count))
        if theirs is not None and config.logit_weight:
            known = encoder.logits(theirs.similarity())
            parts["kd_loss"] = (config.logit_weight, self.similarities(logits, known, count))
        if theirs is not None and config.embedding_weight:
            both = ((ours.images, theirs.images), (ours.texts, theirs.texts))
            errors = [self.embeddings(each, goal, count) for each, goal in both]
            parts["embedding_loss"] = (config.embedding_weight, torch.stack(errors).mean())
        if encoder.switch is not None:
            seen = logits.sum() if student is not network else None
            parts |= self._matching(student, teacher, inputs, logits.detach(), count, seen)
        return parts

    def _matching(
        self,
        student: nn.Module,
        teacher: Teacher | None,
        inputs: dict[str, Any],
        logits: Tensor,
        count: Tensor,
        seen: Tensor | None,
    ) -> Losses:
        """The losses of the ITM head.

        logits: of all pairs, without gradients. seen: what the forward before gave, where DDP wraps the student: it
        takes for used what stands behind the last forward, so that this has to.
        """
        rows, matches = matching_rows(logits, inputs["negatives"])
        batch = {name: value[rows[name == "pixel_values"]] for name, value in inputs["both"].items()}
        batch[str(self.encoder.switch)] = torch.tensor(True)
        known = None
        if teacher is not None and self.config.logit_weight:
            known = matching_logits(teacher(batch))
            torch.clear_autocast_cache()
        if seen is not None:
            batch["pixel_values"] = batch["pixel_values"] + 0 * seen
        found = matching_logits(student(**batch))
        count = 3 * count  # of each pair, two are made that do not match
        parts: Losses = {}
        if self.config.task_weight:
            parts["itm_loss"] = (self.config.task_weight, self.matching(found, matches, count))
        if known is not None:
            divergence = self.matching_logits(found, known, matches.long(), count)
            parts["itm_kd_loss"] = (self.config.logit_weight, divergence)
        return parts

    # -- the samples held back ----------------------------------------------------------------------------

    @torch.no_grad()
    def examine(
        self, model: nn.Module, samples: Sequence[Sample], forward: Forward, batch_size: int, name: str
    ) -> "PairExamination":
        images, texts, matched = [], [], []
        with forward.of(model) as run:
            starts = range(0, len(samples), batch_size)
            for start in track(starts, f"Trying the {name} model on samples held back"):
                inputs = self.batcher.training(samples[start : start + batch_size])
                found = self.encoder.embed(run, model, inputs)
                images += list(found.images.cpu())
                texts += list(found.texts.cpu())
                if self.encoder.switch is not None:
                    matched.append(self._matched(run, inputs))
        keys = [image_key(sample) for sample in samples]
        apart = negatives(keys, [self.batcher.text_of(sample) for sample in samples])
        padded = (nn.utils.rnn.pad_sequence(each, batch_first=True) for each in (images, texts))
        logits = self.encoder.logits(similarity(*padded))
        loss = float(self.contrastive(logits, apart))
        right = (first(logits, apart), first(logits.T, apart.T))
        return PairExamination(loss, *right, torch.cat(matched) if matched else None)

    def _matched(self, run: Any, inputs: dict[str, Any]) -> Tensor:
        """Whether the ITM head tells each pair, and each picture beside the next one's text where that is another."""
        count = len(inputs["negatives"])
        here, there = torch.arange(count), torch.arange(count).roll(-1)
        made = inputs["both"]
        right = torch.zeros(count)
        for texts, matches in ((here, True), (there, False)):
            batch = {name: value[here if name == "pixel_values" else texts] for name, value in made.items()}
            logits = matching_logits(run({**batch, str(self.encoder.switch): torch.tensor(True)})).cpu()
            told = (logits[:, 1] > logits[:, 0]) == matches
            counts = (
                told.float() if matches else torch.where(inputs["negatives"][here, there], told.float(), 1.0)
            )
            right += counts / 2
        return right

    def baseline(self, known: Sequence[Sample], asked: Sequence[Sample]) -> float:
        """The loss of similarities that are all alike, at the best of levels."""
        keys = [image_key(sample) for sample in asked]
        apart = negatives(keys, [self.batcher.text_of(sample) for sample in asked])
        count = len(asked)
        wrong = int(apart.sum())
        if self.encoder.loss == "sigmoid":  # p of a match is the share of pairs that do
            p = count / (count + wrong)
            return -(count * math.log(p) + wrong * math.log(1 - p)) / count if wrong else 0.0
        return float(self.contrastive(torch.zeros(count, count), apart))

    def doubts(self, dense: Examination, baseline: float) -> str:
        return (
            f"The dense model itself tells the pairs of {len(dense.answers)} samples held back no better than chance "
            f"(a loss of {dense.loss:.2f} nats a pair, and chance {baseline:.2f}): these captions are not what it was "
            "trained on, and repair would teach them to it; check the data and the processor."
        )


@dataclass(frozen=True)
class PairExamination:
    """loss: contrastive, over all pairs held back. texts, images: float32 (samples,), whether a picture's own text is
    nearest among its negatives, and a text's own picture. matched: how far an ITM head is right, where there is one."""

    loss: float
    texts: Tensor
    images: Tensor
    matched: Tensor | None = None

    @property
    def answers(self) -> Tensor:
        parts = [self.texts, self.images, *([] if self.matched is None else [self.matched])]
        return torch.stack(parts).mean(0)

    def scores(self) -> dict[str, float]:
        """loss in nats a pair; TR@1, IR@1 and, of an ITM head, accuracy, in per cent."""
        named = {"TR@1": self.texts, "IR@1": self.images, "ITM": self.matched}
        shares = {name: round(100 * float(x.mean()), 1) for name, x in named.items() if x is not None}
        return {"loss": round(self.loss, 4), **shares}


def first(logits: Tensor, negatives: Tensor) -> Tensor:
    """float32 (B,): whether a row's own column is above all its negatives; one that ties is not."""
    best = logits.masked_fill(~negatives, -torch.inf).amax(1)
    return (logits.diagonal() > best).float()


def matching_rows(logits: Tensor, negatives: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Pairs for an ITM head: each as it is, each picture with a hard negative text, each text with such a picture.

    logits: (B, B), which tell what is hard. Returns the numbers of the texts and of the pictures, and, bool, whether
    they match.
    """
    own = torch.arange(len(logits), device=logits.device)
    texts, pictures = hard_negatives(logits, negatives), hard_negatives(logits.T, negatives.T)
    has_text, has_picture = texts >= 0, pictures >= 0
    of_texts = torch.cat([own, texts[has_text], own[has_picture]])
    of_pictures = torch.cat([own, own[has_text], pictures[has_picture]])
    return (of_texts, of_pictures), torch.arange(len(of_texts), device=logits.device) < len(own)


def matching_logits(output: Any) -> Tensor:
    """The ITM head's logits (N, 2): no match, match."""
    found = getattr(output, "itm_score", None)
    return output.logits_per_image if found is None else found
