"""Experts are repaired as other layers are: a low-rank pair each, under the mask, merged into the fused weights."""

import pytest
import torch
from fused.moe_vlm import batch, make

from ressa.anatomy import find_anatomy
from ressa.fused import parts, splitted
from ressa.pruning import prune
from ressa.repairing.config import RepairConfig
from ressa.repairing.reconstruction import reconstruct
from ressa.repairing.sparse_lora import sparse_layers
from ressa.repairing.student import finish_student, make_student
from ressa.repairing.weights import check_masks

BATCHES = [batch(seed, (40,) * 4) for seed in range(2)]


def pruned_and_masks():
    model = make()
    masks = dict(prune(model, BATCHES, {"language": "2:4"}).masks)
    return model, masks


@pytest.mark.parametrize("method", ["sparse_lora", "lora_remask", "masked_finetune"])
def test_training_changes_the_experts_and_moves_no_zero(method):
    model, masks = pruned_and_masks()
    config = RepairConfig(method=method, tune=("language",), alpha=16)
    with splitted(model):
        anatomy = find_anatomy(model)
        student = make_student(model, masks, anatomy, config, dense_weights=False).train()
        trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
        if method == "sparse_lora":
            assert {name.removeprefix("base_model.model.") for name, _ in sparse_layers(student)} == set(
                masks
            )
        optimizer = torch.optim.AdamW(trained, lr=1e-2)
        for _ in range(2):  # at first B is zero, and A gets no gradient
            student(**BATCHES[0]).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        model = finish_student(student, masks, config)
        check_masks(model, masks)
    assert parts(model) == {}
    untrained, _ = pruned_and_masks()
    for mine, other in zip(
        model.model.language_model.layers, untrained.model.language_model.layers, strict=True
    ):
        assert not torch.equal(mine.mlp.experts.gate_up_proj, other.mlp.experts.gate_up_proj)
        assert not torch.equal(mine.mlp.experts.down_proj, other.mlp.experts.down_proj)
    assert model.config.model_type == "qwen3_vl_moe"


def test_reconstruction_brings_blocks_of_experts_nearer():
    model, masks = pruned_and_masks()
    dense = make()
    config = RepairConfig(method="reconstruct", tune=("language",), reconstruct_epochs=4)
    with splitted(model), splitted(dense):
        history = reconstruct(model, dense, masks, find_anatomy(model), BATCHES, config)
        check_masks(model, masks)
    assert history
    assert all(entry["loss"] < entry["before"] for entry in history)
