"""The losses of dual encoders equal what transformers and loops over pairs compute."""

import math

import pytest
import torch
from torch.nn import functional as F
from transformers.models.clip.modeling_clip import image_text_contrastive_loss

from ressa.repairing.pair_losses import (
    ContrastiveLoss,
    EmbeddingDistillation,
    MatchingLoss,
    SimilarityDistillation,
    hard_negatives,
)
from ressa.repairing.pair_objective import first, matching_rows

ALL = ~torch.eye(6, dtype=torch.bool)


@pytest.fixture
def logits():
    return 3 * torch.randn(6, 6, generator=torch.Generator().manual_seed(0))


def test_softmax_is_clips(logits):
    assert ContrastiveLoss("softmax")(logits, ALL).item() == pytest.approx(
        image_text_contrastive_loss(logits.T).item(), rel=1e-6
    )


def test_sigmoid_is_siglips(logits):
    signs = 2 * torch.eye(6) - 1
    want = -F.logsigmoid(signs * logits).sum(-1).mean()  # as SiglipModel computes it
    assert ContrastiveLoss("sigmoid")(logits, ALL).item() == pytest.approx(want.item(), rel=1e-6)


def test_hardest_is_colpalis(logits):
    want = 0.0
    for query in range(6):
        others = [logits[page, query].item() for page in range(6) if page != query]
        want += math.log1p(math.exp(max(others) - logits[query, query].item()))
    assert ContrastiveLoss("hardest")(logits, ALL).item() == pytest.approx(want / 6, rel=1e-5)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "hardest"])
def test_what_is_no_negative_changes_nothing(logits, kind):
    """A loss over pairs 0 and 1, which read the same, is none of theirs with each other."""
    apart = ALL.clone()
    apart[0, 1] = apart[1, 0] = False
    loss = ContrastiveLoss(kind)
    other = logits.clone()
    other[0, 1] = other[1, 0] = 40.0
    assert loss(other, apart).item() == pytest.approx(loss(logits, apart).item())
    assert loss(other, ALL) > loss(logits, ALL) + 1
    assert loss(logits, apart, 12).item() == pytest.approx(loss(logits, apart).item() / 2)


@pytest.mark.parametrize("kind", ["softmax", "hardest"])
def test_a_pair_without_negatives_teaches_nothing(logits, kind):
    logits.requires_grad_(True)
    loss = ContrastiveLoss(kind)(logits, torch.zeros(6, 6, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert logits.grad.isfinite().all()


def test_similarities_are_distilled_along_rows_and_columns(logits):
    teacher = logits.flip(0)
    want = 0.0
    for ours, theirs in ((logits, teacher), (logits.T, teacher.T)):
        for row in range(6):
            p, q = (torch.softmax(each[row].double() / 2, 0) for each in (theirs, ours))
            want += 4 * (p * (p / q).log()).sum().item()
    assert SimilarityDistillation(2.0)(logits, teacher).item() == pytest.approx(want / 12, rel=1e-5)
    assert SimilarityDistillation()(logits, logits).item() == pytest.approx(0, abs=1e-6)


def test_embeddings_are_distilled_where_there_is_a_token():
    teacher = F.normalize(torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(1)), dim=-1)
    teacher[0, 2:] = 0
    student = F.normalize(teacher + 0.3, dim=-1)
    want = sum(
        (2 - 2 * (student[i, :n] * teacher[i, :n]).sum(-1)).mean().item() for i, n in ((0, 2), (1, 4), (2, 4))
    )
    assert EmbeddingDistillation()(student, teacher).item() == pytest.approx(want / 3, rel=1e-5)


def test_matching_is_cross_entropy():
    logits, matches = torch.tensor([[0.0, 1.0], [2.0, -1.0]]), torch.tensor([True, True])
    want = (math.log1p(math.exp(-1)) + math.log1p(math.exp(3))) / 2
    assert MatchingLoss()(logits, matches).item() == pytest.approx(want)


def test_hard_negatives_are_drawn_by_how_hard_they_are(logits):
    apart = ALL.clone()
    apart[2] = False
    torch.manual_seed(0)
    drawn = torch.stack([hard_negatives(logits, apart) for _ in range(2000)])
    assert (drawn[:, 2] == -1).all()
    rows = [0, 1, 3, 4, 5]
    for row in rows:
        assert apart[row][drawn[:, row]].all()
        chances = logits[row].masked_fill(~apart[row], -torch.inf).softmax(0)
        shares = drawn[:, row].bincount(minlength=6) / 2000
        torch.testing.assert_close(shares, chances, atol=0.05, rtol=0)
    (texts, pictures), matches = matching_rows(logits, apart)
    assert matches.sum() == 6
    assert len(texts) == len(pictures) == 6 + 5 + int(apart.any(0).sum())
    assert apart[pictures[6:], texts[6:]].all()


def test_first_is_above_every_negative(logits):
    apart = ALL.clone()
    apart[0, 1] = False
    logits = torch.zeros(6, 6)
    logits[0, 1], logits[0, 0] = 9.0, 1.0
    logits[3, 3] = 1.0
    assert first(logits, apart).tolist() == [1, 0, 0, 1, 0, 0]
