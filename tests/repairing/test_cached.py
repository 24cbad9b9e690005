"""Logits cached on disk stand in for the dense model."""

import pytest
import torch
from repairing.tiny import pruned_pair, samples, without_dropout

from ressa.errors import UsageError
from ressa.repairing import CachedLogits, RepairConfig, cache_logits, repair
from ressa.repairing.losses import LogitDistillation, TopKDistillation

OPTIONS = {"learning_rate": 1e-2, "batch_size": 4, "steps": 4, "device": "cpu", "precision": "fp32"}


def test_with_every_token_known_the_loss_is_the_whole_divergence():
    torch.manual_seed(0)
    student, teacher, targets = torch.randn(3, 7), torch.randn(3, 7), torch.tensor([1, 2, 3])
    for temperature in (1.0, 2.0):
        best = torch.log_softmax(teacher / temperature, -1).topk(7)
        ours = TopKDistillation(temperature)(student, best.values, best.indices)
        torch.testing.assert_close(ours, LogitDistillation(temperature)(student, teacher, targets))


def test_with_k_tokens_known_the_others_count_as_one():
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 7), torch.randn(3, 7)
    best = torch.log_softmax(teacher, -1).topk(2)
    p, q = torch.softmax(teacher, -1), torch.softmax(student, -1)
    p_known, q_known = p.gather(-1, best.indices), q.gather(-1, best.indices)
    p_all = torch.cat([p_known, 1 - p_known.sum(-1, keepdim=True)], -1)
    q_all = torch.cat([q_known, 1 - q_known.sum(-1, keepdim=True)], -1)
    want = (p_all * (p_all / q_all).log()).sum(-1).mean()
    loss = TopKDistillation()
    torch.testing.assert_close(loss(student, best.values, best.indices), want)
    torch.testing.assert_close(loss(student, best.values, best.indices, count=6), want / 2)
    assert want < (p * (p / q).log()).sum(-1).mean()


@pytest.mark.parametrize("family", ["instructblip", "llava"])
def test_repair_from_the_cache_is_repair_from_the_dense_model(tmp_path, family):
    histories = {}
    for form in ("shared", "cached"):
        pruned, masks, dense = pruned_pair(family)
        without_dropout(pruned.model)
        teacher = dense if form == "shared" else cache_logits(dense, samples(8), tmp_path / "logits", k=1000)
        result = repair(pruned, masks, teacher, samples(8), RepairConfig(**OPTIONS))
        assert result.teacher == form
        histories[form] = [entry[name] for entry in result.history for name in ("loss", "kd_loss")]
    assert histories["cached"] == pytest.approx(histories["shared"], rel=1e-3)


def test_a_cache_is_of_its_samples_and_temperature(tmp_path):
    pruned, masks, dense = pruned_pair()
    cache = cache_logits(dense, samples(4), tmp_path / "logits", k=8)
    values, ids = CachedLogits(tmp_path / "logits").rows([2, 0], torch.device("cpu"))
    assert values.shape == ids.shape == (2 * 4, 8)  # "it is red" and the end token, twice
    assert (values[:, :-1] >= values[:, 1:]).all()
    with pytest.raises(UsageError, match="other samples"):
        repair(pruned, masks, cache, samples(6), RepairConfig(**OPTIONS))
    with pytest.raises(UsageError, match="temperature"):
        repair(pruned, masks, cache, samples(4), RepairConfig(temperature=2.0, **OPTIONS))
    with pytest.raises(UsageError, match="hidden states"):
        repair(pruned, masks, cache, samples(4), RepairConfig(hidden_weight=0.1, **OPTIONS))
    with pytest.raises(UsageError, match="leave it at auto"):
        repair(pruned, masks, cache, samples(4), RepairConfig(teacher="shared", **OPTIONS))
    with pytest.raises(UsageError, match="no cached logits"):
        CachedLogits(tmp_path)
