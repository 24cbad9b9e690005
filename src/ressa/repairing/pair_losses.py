"""What repair of a dual encoder minimises: one class a loss.

Every loss takes what belongs to B pictures and texts, pair i being picture i and text i, and divides its sum by `count`
instead of by B when told to. `negatives`, bool (B, B), says which other pairs are known not to match: a text that reads
the same as a picture's own is no negative of it, and is left out. All is computed in float32.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ressa.repairing.losses import Count


class ContrastiveLoss:
    """The loss that a dual encoder is made with.

    softmax: cross-entropy of a picture's own text among its negatives, and the other way, in equal shares (CLIP,
    arXiv 2103.00020, Figure 3). sigmoid: −log σ of every pair's logit, negated where they do not match, summed over
    pairs (SigLIP, arXiv 2303.15343, Algorithm 1). hardest: softplus(best negative − own), over pages for each query
    (ColPali, arXiv 2407.01449).
    """

    def __init__(self, kind: Literal["softmax", "sigmoid", "hardest"]) -> None:
        self.kind = kind

    def __call__(self, logits: Tensor, negatives: Tensor, count: Count = None) -> Tensor:
        """logits: (B, B), pictures by texts."""
        logits = logits.float()
        own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        count = len(logits) if count is None else count
        if self.kind == "sigmoid":
            signed = F.logsigmoid(torch.where(own, logits, -logits))
            return -signed.masked_fill(~(own | negatives), 0).sum() / count
        if self.kind == "hardest":
            best = logits.masked_fill(~negatives, -torch.inf).amax(0)
            return F.softplus(best - logits.diagonal()).sum() / count
        among = logits.masked_fill(~(own | negatives), -torch.inf)
        right = torch.arange(len(logits), device=logits.device)
        texts, images = (F.cross_entropy(each, right, reduction="sum") for each in (among, among.T))
        return (texts + images) / (2 * count)


class SimilarityDistillation:
    """T² · KL(teacher ‖ student) of the softmax at temperature T over texts for each picture and over pictures for each
    text, in equal shares: the contrastive relational distillation of CLIP-KD (arXiv 2307.12732), and, as its gradient
    is that of the cross-entropy, the affinity mimicking of TinyCLIP (arXiv 2309.12314). Pairs that read the same count:
    the teacher ranks them, too."""

    def __init__(self, temperature: float = 1.0) -> None:
        self.temperature = temperature

    def __call__(self, student: Tensor, teacher: Tensor, count: Count = None) -> Tensor:
        """student, teacher: logits (B, B)."""
        total = torch.zeros((), device=student.device)
        for ours, theirs in ((student, teacher), (student.T, teacher.T)):
            log_student = F.log_softmax(ours.float() / self.temperature, dim=-1)
            log_teacher = F.log_softmax(theirs.float() / self.temperature, dim=-1)
            total = total + F.kl_div(log_student, log_teacher, reduction="sum", log_target=True)
        return self.temperature**2 * total / (2 * (len(student) if count is None else count))


class EmbeddingDistillation:
    """‖student − teacher‖² of unit vectors, 2 − 2·cosine: CLIP-KD's feature distillation (arXiv 2307.12732), which it
    found to work best of all. Mean over an item's vectors."""

    def __call__(self, student: Tensor, teacher: Tensor, count: Count = None) -> Tensor:
        """student, teacher: unit vectors (B, n, d), zeros where there is no token."""
        there = teacher.float().square().sum(-1) > 0
        errors = (student.float() - teacher.float()).square().sum(-1) * there
        means = errors.sum(1) / there.sum(1).clamp_min(1)
        return means.sum() / (len(student) if count is None else count)


class MatchingLoss:
    """Cross-entropy of whether pictures and texts match, mean over the items (ALBEF, arXiv 2107.07651)."""

    def __call__(self, logits: Tensor, matches: Tensor, count: Count = None) -> Tensor:
        """logits: (N, 2), no match and match; matches: bool (N,)."""
        total = F.cross_entropy(logits.float(), matches.long(), reduction="sum")
        return total / (len(logits) if count is None else count)


def hard_negatives(logits: Tensor, negatives: Tensor) -> Tensor:
    """For each row, a column drawn from its negatives by the softmax of its logits, as ALBEF draws them: int64 (B,);
    −1 where a row has no negative."""
    chances = logits.float().masked_fill(~negatives, -torch.inf).softmax(1).nan_to_num(0) + 1e-4 * negatives
    some = negatives.any(1)
    drawn = torch.multinomial(torch.where(some[:, None], chances, 1.0), 1)[:, 0]
    return torch.where(some, drawn, -1)
