"""Experts are pruned one by one, saved, counted and read again like any other layer."""

from pathlib import Path

import pytest
import torch
import transformers as hf
from fused.moe_vlm import batch, make
from packed_folders import contents
from safetensors.torch import load_file, save_file

from ressa.anatomy import find_anatomy
from ressa.calibration.experts import FEW
from ressa.checkpoint import Manifest, Vlm, count_sparsity, read_masks, save
from ressa.checkpoint.packed import pack_folder, unpack_folder
from ressa.fused import parts, splitted
from ressa.pruning import PruneResult, prune
from ressa.runtime.model import packed_layers
from ressa.warned import RessaWarning

EXPERT = "model.language_model.layers.{}.mlp.experts.{}.{}"


def pruned(method: str = "wanda", pattern: str = "2:4", **options) -> tuple[hf.PreTrainedModel, PruneResult]:
    model = make()
    with pytest.warns(RessaWarning, match="experts"):
        result = prune(model, [batch(0), batch(1)], {"language": pattern}, method=method, **options)
    return model, result


def test_every_expert_is_a_layer_of_its_own():
    anatomy = find_anatomy(make())
    experts = [name for name in anatomy.linears("language") if ".experts." in name]
    assert len(experts) == 2 * 4 * 3
    assert EXPERT.format(1, 3, "up_proj") in experts
    assert not any(name.endswith("mlp.gate") for name in anatomy.linears())  # the router
    assert anatomy.towers["language"].share > 0.98  # all but the router


@pytest.mark.parametrize("method", ["random", "magnitude", "wanda", "sparsegpt", "dsnot"])
@pytest.mark.parametrize("pattern", ["2:4", "0.5"])
def test_every_method_prunes_experts_to_every_pattern(method, pattern):
    model = make()
    before = model.model.language_model.layers[0].mlp.experts.gate_up_proj.clone()
    result = prune(model, [batch(0), batch(1)], {"language": pattern}, method=method)
    fused = model.model.language_model.layers[0].mlp.experts.gate_up_proj
    assert not torch.equal(fused, before)
    for layer in result.layers:
        assert layer.achieved == pytest.approx(0.5, abs=0.01)
    with splitted(model):
        for name, mask in result.masks.items():
            assert not model.get_submodule(name).weight[~mask].any()


def test_an_expert_with_tokens_enough_is_pruned_by_its_own():
    model = make()
    seen: dict[str, torch.Tensor] = {}
    layer = EXPERT.format(0, 2, "gate_proj")
    batches = [batch(seed, (40,) * 4) for seed in range(3)]
    with splitted(model), torch.no_grad():
        rows: list[torch.Tensor] = []
        hook = model.get_submodule(layer).register_forward_pre_hook(lambda _m, args: rows.append(args[0]))
        for each in batches:
            model(**each)
        hook.remove()
        seen["x"] = torch.cat(rows)
        weight = model.get_submodule(layer).weight.clone()
    assert len(seen["x"]) >= FEW
    scores = weight.abs() * seen["x"].norm(dim=0)
    expected = scores >= scores.view(-1, 4).topk(2).values[:, -1:].expand(-1, 4).reshape(scores.shape)
    masks = prune(model, batches, {"language": "2:4"}, method="wanda").masks
    assert torch.equal(masks[layer], expected)


def test_experts_that_few_tokens_chose_are_pruned_by_those_of_all_and_that_is_said():
    model = make()
    with torch.no_grad():  # no token chooses expert 3
        for layer in model.model.language_model.layers:
            layer.mlp.gate.weight[3] = -100 * layer.mlp.gate.weight[0]
    with pytest.warns(RessaWarning, match=r"experts' layers were given fewer than 32 calibration tokens"):
        result = prune(model, [batch(0)], {"language": "2:4"})
    assert EXPERT.format(1, 3, "down_proj") in result.masks


def test_padding_counts_for_no_expert():
    alone, padded = make(), make()
    first, second = batch(0, (6,)), batch(1, (4,))
    together = batch(0, (6, 4))
    ids = torch.cat([first["input_ids"], torch.nn.functional.pad(second["input_ids"], (0, 2))])
    together |= {"input_ids": ids, "mm_token_type_ids": (ids == 100).long()}
    together["pixel_values"] = torch.cat([first["pixel_values"], second["pixel_values"]])
    masks = [
        prune(model, batches, {"language": "2:4"}).masks
        for model, batches in ((alone, [first, second]), (padded, [together]))
    ]
    for name in masks[0]:
        assert torch.equal(masks[0][name], masks[1][name]), name


def saved(folder: Path) -> tuple[hf.PreTrainedModel, PruneResult, Manifest]:
    model, result = pruned()
    manifest = Manifest(kind="pruned", source="tiny", plan=result.plan.to_dict())
    return model, result, save(folder, Vlm(model, None, "tiny"), manifest=manifest, masks=result.masks)


def test_what_is_saved_is_counted_expert_by_expert(tmp_path):
    _, result, made = saved(tmp_path / "pruned")
    assert set(result.masks) == {layer.name for layer in made.layers if layer.asked == "2:4"}
    assert all(layer.tensor for layer in made.layers)  # found in the files, without loading the model
    counted = count_sparsity(tmp_path / "pruned")
    assert counted.holds
    assert all(layer.sparsity == 0.5 for layer in counted.layers if ".experts." in layer.name)
    (tmp_path / "pruned" / "ressa.json").unlink()
    assert count_sparsity(tmp_path / "pruned").towers["language"] == pytest.approx(0.5, abs=1e-3)


def test_a_weight_out_of_an_experts_pattern_is_found(tmp_path):
    saved(tmp_path / "pruned")
    file = tmp_path / "pruned" / "model.safetensors"
    tensors = load_file(file)
    key = next(key for key in tensors if key.endswith("experts.gate_up_proj"))
    tensors[key][2, 5] = 1
    save_file(tensors, file, metadata={"format": "pt"})
    broken = [layer.name for layer in count_sparsity(tmp_path / "pruned").layers if layer.holds is False]
    assert broken == [EXPERT.format(0, 2, "gate_proj")]


def test_plain_transformers_reads_what_was_saved(tmp_path):
    model, result, _ = saved(tmp_path / "pruned")
    again = hf.Qwen3VLMoeForConditionalGeneration.from_pretrained(tmp_path / "pruned")
    with torch.no_grad():
        torch.testing.assert_close(again(**batch(5)).logits, model(**batch(5)).logits)
    assert set(read_masks(tmp_path / "pruned")) == set(result.plan)


def test_the_model_is_left_as_transformers_knows_it():
    model, _ = pruned()
    assert parts(model) == {}
    assert list(model.state_dict()) == list(make().state_dict())


def test_fused_experts_stay_as_they_are_in_a_packed_folder_and_keep_their_masks(tmp_path):
    saved(tmp_path / "pruned")
    sizes = pack_folder(tmp_path / "pruned", tmp_path / "packed")
    assert sizes.layers > 0
    assert any(".experts." in name for name in sizes.left)
    assert count_sparsity(tmp_path / "packed") == count_sparsity(tmp_path / "pruned")
    before, after = (read_masks(tmp_path / folder) for folder in ("pruned", "packed"))
    assert {name: before[name].tolist() for name in before} == {name: after[name].tolist() for name in after}
    unpack_folder(tmp_path / "packed", tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "pruned")
    models = [type(make()).from_pretrained(tmp_path / folder).eval() for folder in ("pruned", "packed")]
    assert packed_layers(models[1])
