"""A dual encoder that was really trained: pruning breaks it, repair brings back nearly all."""

import copy
import warnings

import pytest
import torch
from dual.trained import samples, trained_clip

from ressa.checkpoint import Vlm
from ressa.data import batches
from ressa.evaluation.embedding import score_by_embedding
from ressa.evaluation.metrics.recall import ranks, recall_at
from ressa.pruning import prune
from ressa.repairing import RepairConfig, repair
from ressa.repairing.weights import check_masks
from ressa.warned import RessaWarning


def retrieval(model, processor):
    """The mean of TR@1 and IR@1 among 60 pictures that nobody trained on, in per cent."""
    asked = samples(0, 1)
    scores = score_by_embedding(model, processor, asked, [sample.target for sample in asked])
    own = torch.eye(len(asked), dtype=torch.bool)
    return 50 * (recall_at(ranks(scores, own), 1) + recall_at(ranks(scores.T, own), 1))


@pytest.mark.parametrize(
    ("seed", "options"),
    [
        (0, {}),
        (1, {}),
        (2, {}),
        (0, {"method": "reconstruct", "reconstruct_epochs": 5}),
    ],
)
def test_repair_brings_back_what_pruning_broke(seed, options):
    model, processor = trained_clip()
    pruned = copy.deepcopy(model)
    vlm, dense = Vlm(pruned, processor), Vlm(copy.deepcopy(model), processor)
    masks = prune(pruned, batches(vlm, samples(100 + seed, 1), 30), "2:4", method="wanda").masks
    before, broken = retrieval(model, processor), retrieval(pruned, processor)
    assert before > 90
    assert broken < 70
    config = RepairConfig(
        **{
            "epochs": 2,
            "batch_size": 30,
            "learning_rate": 1e-3,
            "seed": seed,
            "device": "cpu",
            "precision": "fp32",
        }
        | options
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", RessaWarning)  # nothing is worse on samples held back
        result = repair(vlm, masks, dense, samples(200 + 10 * seed, 8), config)
    assert retrieval(pruned, processor) > broken + 0.8 * (before - broken)
    assert result.held_back["repaired"]["loss"] < result.held_back["pruned"]["loss"]
    check_masks(pruned, masks)
