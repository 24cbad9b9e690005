"""Samples that no repair trains on, to say what it did: loss and right answers of the dense, the pruned and the
repaired model on them; `examine` tries those that generate text."""

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ressa.data.batcher import Batcher
from ressa.data.sample import Sample, image_key
from ressa.progress import track
from ressa.repairing.forward import Forward, logits_of
from ressa.repairing.losses import IGNORED, align
from ressa.warned import warn

if TYPE_CHECKING:
    from ressa.repairing.objective import Examination, Objective

SHARE = 10  # at most one sample in so many is held back
LEAST = 8  # fewer tell nothing
COUNTED = 2000  # targets whose tokens are counted


def hold_back(samples: Sequence[Sample], most: int, seed: int) -> list[int]:
    """The numbers of the samples to hold back, in order: at most `most`, and at most a tenth of all.

    All samples of an image are held back together, so that nothing of what is seen there is trained on. Where that
    leaves fewer than 8, none are. Plain text is not among them (`hold_back_text`).
    """
    asked = [number for number, sample in enumerate(samples) if not sample.plain]
    quota = min(most, len(asked) // SHARE)
    groups: dict[Any, list[int]] = {}
    for number in asked:
        groups.setdefault(image_key(samples[number]), []).append(number)
    held: list[int] = []
    order = list(groups.values())
    random.Random(seed).shuffle(order)
    for group in order:
        if len(held) == quota:
            break
        if len(held) + len(group) <= quota:
            held += group
    return sorted(held) if len(held) >= LEAST else []


def hold_back_text(samples: Sequence[Sample], most: int, seed: int) -> dict[str, list[int]]:
    """Of the plain texts, at most `most` and at most a tenth: text → all its numbers."""
    numbers: dict[str, list[int]] = {}
    for number, sample in enumerate(samples):
        if sample.plain:
            numbers.setdefault(sample.target or "", []).append(number)
    drawn = random.Random(seed).sample(sorted(numbers), min(most, len(numbers) // SHARE))
    return {text: numbers[text] for text in sorted(drawn)}


@dataclass(frozen=True)
class TokenExamination:
    """How one model does on the samples held back; float32 (samples,) each.

    losses: Σ −log p over a target's tokens, its end included. tokens: how many they are. right: how many of them
    are the likeliest. Greedy decoding gives exactly the target where all of them are, and only there.
    """

    losses: Tensor
    tokens: Tensor
    right: Tensor

    @property
    def loss(self) -> float:
        """Mean −log p of a token, in nats."""
        return float(self.losses.sum() / self.tokens.sum())

    @property
    def answers(self) -> Tensor:
        """Which targets greedy decoding would give, the end included: 1 or 0."""
        return (self.right == self.tokens).float()

    def scores(self) -> dict[str, float]:
        """loss in nats a token; tokens and answers: how many are right, in per cent."""
        tokens = float(self.right.sum() / self.tokens.sum())
        return {
            "loss": round(self.loss, 4),
            "tokens": round(100 * tokens, 1),
            "answers": round(100 * float(self.answers.mean()), 1),
        }


class HeldBack:
    """The samples held back, and what is found on them.

    report: JSON-able; how many `samples`, `baseline` (the loss of someone who sees no picture), and by the name of each
    model that was examined its scores, with `text_loss`, the mean −log p of a token of the texts held back, in nats,
    where there are any. Empty where there were too few samples to hold any back.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        others: Sequence[Sample],
        objective: "Objective",
        forward: Forward,
        batch_size: int,
        texts: Sequence[Sample] = (),
    ) -> None:
        """others: the samples that are trained on. batch_size: of a forward pass. texts: plain ones held back."""
        self.samples, self.texts = list(samples), list(texts)
        self.objective = objective
        self.forward = forward
        self.batch_size = batch_size
        self.found: dict[str, Examination] = {}
        self.report: dict[str, Any] = {}
        if samples:
            baseline = round(objective.baseline(others, samples), 4)
            self.report = {"samples": len(samples), "baseline": baseline}

    def examine(self, name: str, model: nn.Module) -> None:
        """Have the `dense`, `pruned` or `repaired` model tried on them; warns of what is wrong with it."""
        if not self.samples:
            return
        try:
            found = self.objective.examine(model, self.samples, self.forward, self.batch_size, name)
        except torch.OutOfMemoryError:
            self.samples = []
            warn(
                f"The {name} model does not fit on {self.forward.device} as a whole, so that nothing is known of what "
                "repair does to samples that it does not train on: evaluate the result."
            )
            return
        self.found[name] = found
        self.report[name] = found.scores()
        if self.texts:
            read = self.objective.examine(model, self.texts, self.forward, self.batch_size, name)
            self.report[name]["text_loss"] = round(read.loss, 4)
        if name == "dense" and not found.loss < self.report["baseline"]:
            warn(self.objective.doubts(found, self.report["baseline"]))
        elif name == "repaired" and "pruned" in self.found:
            warn_of_repaired(self.found["pruned"], found, self.objective)
            ours, theirs = (self.report[which].get("text_loss", 0.0) for which in (name, "pruned"))
            if not round(ours, 3) <= round(theirs, 3):
                warn(
                    "REPAIR MADE THE MODEL WORSE AT PLAIN TEXT: on texts held back its loss went from "
                    f"{theirs:.3f} to {ours:.3f} nats a token; "
                    "train on more of it (text_share), or with a lower learning rate."
                )


@torch.no_grad()
def examine(
    model: nn.Module,
    batcher: Batcher,
    samples: Sequence[Sample],
    forward: Forward,
    batch_size: int,
    name: str = "dense",
) -> TokenExamination:
    """Forward passes over the samples, without gradients, where repair computes. name: of the model, as it is told."""
    losses, tokens, right = [], [], []
    starts = range(0, len(samples), batch_size)
    with forward.of(model) as run:
        for start in track(starts, f"Trying the {name} model on samples held back"):
            batch = batcher.training(samples[start : start + batch_size])
            logits, shift = logits_of(run(batch)), not batcher.encoder_decoder
            labels = batch["labels"].to(logits.device)
            numbers = torch.arange(len(labels), device=labels.device)[:, None].expand_as(labels)
            rows, targets = align(logits, labels, shift=shift)
            supervised = targets != IGNORED
            rows, targets = rows[supervised].float(), targets[supervised]
            owners = align(logits, numbers, shift=shift)[1][supervised]

            def by_sample(values: Tensor, owners: Tensor = owners, count: int = len(labels)) -> Tensor:
                return torch.zeros(count, device=values.device).index_add_(0, owners, values.float()).cpu()

            losses.append(by_sample(F.cross_entropy(rows, targets, reduction="none")))
            tokens.append(by_sample(torch.ones_like(targets)))
            right.append(by_sample(rows.argmax(-1) == targets))
    return TokenExamination(torch.cat(losses), torch.cat(tokens), torch.cat(right))


def loss_by_frequency(batcher: Batcher, known: Sequence[Sample], asked: Sequence[Sample]) -> float:
    """What a model would lose, in nats a token, that looks at neither image nor prompt nor earlier tokens: it knows
    only how often each token occurs in the targets of `known`; Laplace's rule for those that it has not seen."""
    counts = Counter(token for row in batcher.targets(known[:COUNTED]) for token in row.tolist())
    total, kinds = sum(counts.values()), len(counts) + 1
    tokens = [token for row in batcher.targets(asked) for token in row.tolist()]
    return -sum(math.log((counts[token] + 1) / (total + kinds)) for token in tokens) / len(tokens)


def warn_of_repaired(pruned: "Examination", repaired: "Examination", objective: "Objective") -> None:
    """Says that repair made the model worse: a higher loss, or fewer right answers than chance explains."""
    lost = repaired.answers - pruned.answers
    error = float(lost.std()) / math.sqrt(len(lost)) if len(lost) > 1 else 0.0
    fewer = float(lost.mean()) < -2 * error
    if not round(repaired.loss, 3) <= round(pruned.loss, 3) or fewer:  # as shown
        was, is_now = (100 * float(each.answers.mean()) for each in (pruned, repaired))
        warn(
            f"REPAIR MADE THE MODEL WORSE: on {len(lost)} samples held back its loss went from {pruned.loss:.3f} to "
            f"{repaired.loss:.3f} {objective.unit}, its {objective.answer} from {was:.1f} to {is_now:.1f} %; "
            "keep the pruned model, or repair with a lower learning rate or other data."
        )
