"""Repair on a GPU: same promises, and the model comes back to where it was."""

import pytest
import torch
from repairing.tiny import pruned_pair, samples

from ressa.repairing import RepairConfig, cache_logits, repair

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
OPTIONS = {"learning_rate": 3e-2, "min_learning_rate": 1e-2, "batch_size": 4, "steps": 12}


@pytest.mark.parametrize("family", ["instructblip", "llava"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ["sparse_lora", "lora_remask", "masked_finetune"])
def test_repair_on_a_gpu(family, dtype, method):
    pruned, masks, dense = pruned_pair(family, dtype=dtype)
    result = repair(pruned, masks, dense, samples(16), RepairConfig(method=method, **OPTIONS))
    losses = [entry["loss"] for entry in result.history]
    assert sum(losses[-3:]) < 0.97 * sum(losses[:3])
    for name, mask in masks.items():
        weight = result.vlm.model.get_submodule(name).weight
        assert weight.device.type == "cpu"
        assert weight.dtype is dtype
        assert not weight[~mask].any()
    assert {parameter.device.type for parameter in dense.model.parameters()} == {"cpu"}


def test_the_gpu_learns_what_the_cpu_learns():
    histories = []
    for device in ("cpu", "cuda"):
        pruned, masks, dense = pruned_pair("llava")
        options = OPTIONS | {"learning_rate": 1e-3, "min_learning_rate": 0, "steps": 4}
        config = RepairConfig(device=device, precision="fp32", **options)
        histories.append(
            [entry["loss"] for entry in repair(pruned, masks, dense, samples(8), config).history]
        )
    assert histories[0] == pytest.approx(histories[1], rel=1e-2)


@pytest.mark.parametrize("teacher", ["separate", "cached"])
def test_other_teachers_and_reconstruction(tmp_path, teacher):
    pruned, masks, dense = pruned_pair("llava")
    given = cache_logits(dense, samples(8), tmp_path / "logits") if teacher == "cached" else dense
    config = RepairConfig(teacher="auto" if teacher == "cached" else "separate", **OPTIONS)
    assert repair(pruned, masks, given, samples(8), config).teacher == teacher
    pruned, masks, dense = pruned_pair("instructblip")
    config = RepairConfig(method="reconstruct", reconstruct_rate=1e-2, reconstruct_batch_size=4)
    blocks = repair(pruned, masks, dense, samples(8), config).blocks
    assert sum(block["loss"] for block in blocks) < 0.6 * sum(block["before"] for block in blocks)
