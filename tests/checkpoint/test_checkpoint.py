"""A saved folder is plain Hugging Face, says what it holds, and is never half-written."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
import torch
import transformers as hf
from families import FAMILIES, LANGUAGE, Family, every_family
from safetensors import safe_open
from torch import Tensor

from ressa.allocation import per_tower
from ressa.anatomy import find_anatomy
from ressa.checkpoint import (
    DENSE,
    MANIFEST,
    MASKS,
    Manifest,
    StoredTensors,
    Vlm,
    count_sparsity,
    load,
    loading,
    match_keys,
    measure,
    read_manifest,
    read_masks,
    save,
    saving,
)
from ressa.checkpoint.companions import check_companions
from ressa.checkpoint.place import read_config
from ressa.errors import RunError, UsageError
from ressa.pruning import prune
from ressa.sparsity import NM, Unstructured

hf.utils.logging.disable_progress_bar()


def processor() -> hf.ProcessorMixin:
    words = {"[PAD]": 0, "[UNK]": 1, "[EOS]": 2, "a": 3, "b": 4}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="[PAD]", unk_token="[UNK]", eos_token="[EOS]"
    )
    size = {"height": 16, "width": 16}
    images = hf.CLIPImageProcessor(size=size, crop_size=size, do_center_crop=False)
    return hf.CLIPProcessor(image_processor=images, tokenizer=tokenizer)


def pruned(family: Family, dtype: torch.dtype = torch.float32) -> tuple[Vlm, Manifest, dict[str, Tensor]]:
    model = family.model().to(dtype)
    plan = per_tower(find_anatomy(model), model, {"vision": NM(2, 4), "language": Unstructured(0.7)})
    result = prune(model, [], plan=plan, method="magnitude")
    manifest = Manifest(
        kind="pruned", source=family.name, plan=result.plan.to_dict(), recipe={"method": "magnitude"}
    )
    return Vlm(model, None, family.name), manifest, dict(result.masks)


@every_family
def test_what_is_saved_is_what_is_counted(family, tmp_path):
    vlm, manifest, masks = pruned(family)
    made = save(tmp_path / "out", vlm, manifest=manifest, masks=masks)
    assert made == read_manifest(tmp_path / "out")
    again = read_masks(tmp_path / "out")
    assert again.keys() == masks.keys()
    assert all(torch.equal(again[name], mask) for name, mask in masks.items())
    anatomy = find_anatomy(vlm.model)
    assert [layer.name for layer in made.layers] == anatomy.linears()
    for layer in made.layers:
        weight = vlm.model.get_submodule(layer.name).weight
        assert layer.achieved == float((weight == 0).double().mean())
        assert layer.asked == (manifest.plan.get(layer.name) or DENSE)
    count = count_sparsity(tmp_path / "out")
    assert count.holds
    assert count.towers == made.towers == measure(vlm.model, anatomy)
    assert made.towers["vision"] == 0.5
    assert made.towers.get("connector", 0) == 0
    assert "sparsity_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


@every_family
def test_renamed_tensors_are_found_by_name_and_shape_alone(family, tmp_path):
    vlm, manifest, masks = pruned(family)
    made = save(tmp_path / "out", vlm, manifest=manifest, masks=masks)
    shapes = {layer.name: layer.shape for layer in made.layers}
    stored = StoredTensors(tmp_path / "out")
    assert match_keys(shapes, stored.shapes()) == {layer.name: layer.tensor for layer in made.layers}
    for layer in made.layers:
        assert torch.equal(stored[layer.tensor], vlm.model.get_submodule(layer.name).weight)
    (tmp_path / "out" / MANIFEST).unlink()
    count = count_sparsity(tmp_path / "out")  # from the structure alone
    assert count.towers == made.towers
    assert [(layer.name, layer.sparsity) for layer in count.layers] == [
        (l.name, l.achieved) for l in made.layers
    ]
    assert {(layer.asked, layer.holds) for layer in count.layers} == {(None, None)}


def test_weights_stored_in_another_form_are_counted_as_they_load(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "locate", lambda *_: {})  # as if every weight were split or permuted
    vlm, manifest, masks = pruned(FAMILIES["llava"])
    made = save(tmp_path / "out", vlm, manifest=manifest, masks=masks)
    assert {layer.tensor for layer in made.layers} == {""}
    count = count_sparsity(tmp_path / "out")
    assert count.holds
    assert count.towers == made.towers == measure(vlm.model, find_anatomy(vlm.model))


PLAIN = """
import sys, torch, transformers
transformers.utils.logging.disable_progress_bar()
for folder in sys.argv[1:]:
    config = transformers.AutoConfig.from_pretrained(folder)
    model = getattr(transformers, config.architectures[0]).from_pretrained(folder).eval()
    batch, expected = torch.load(folder + "/../batch.pt")
    with torch.no_grad():
        given = model(**batch)
    for name, value in expected.items():
        assert torch.equal(given[name], value), (folder, name)
assert not any(name.split(".")[0] == "ressa" for name in sys.modules)
"""


def test_plain_transformers_loads_it_and_gives_the_same_logits(tmp_path):
    folders = []
    for family in FAMILIES.values():
        vlm, manifest, masks = pruned(family)
        folder = tmp_path / family.name / "out"
        save(folder, vlm, manifest=manifest, masks=masks)
        with torch.no_grad():
            outputs = vlm.model(**family.batch())
        tensors = {
            name: outputs[name]
            for name in ("logits", "logits_per_image", "loss")
            if outputs.get(name) is not None
        }
        assert tensors
        torch.save((family.batch(), tensors), folder.parent / "batch.pt")
        folders.append(str(folder))
    code = "import torch; torch.set_num_threads(1)\n" + PLAIN
    ran = subprocess.run([sys.executable, "-c", code, *folders], capture_output=True, text=True, timeout=200)
    assert ran.returncode == 0, ran.stderr[-2000:]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shards_and_dtypes(dtype, tmp_path):
    vlm, manifest, masks = pruned(FAMILIES["llava"], dtype)
    made = save(tmp_path / "out", vlm, manifest=manifest, masks=masks, max_shard_size="20KB")
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    count = count_sparsity(tmp_path / "out")
    assert count.holds
    assert count.towers == made.towers
    assert all(StoredTensors(tmp_path / "out")[layer.tensor].dtype == dtype for layer in made.layers)


def test_masks_take_one_bit_a_weight(tmp_path):
    vlm, manifest, masks = pruned(FAMILIES["llava"])
    save(tmp_path / "out", vlm, manifest=manifest, masks=masks)
    with safe_open(tmp_path / "out" / MASKS, "pt") as file:
        sizes = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
    assert sizes * 8 == sum(mask.numel() for mask in masks.values())


@pytest.mark.parametrize("spoil", ["zero moved", "wrong mask", "mask missing", "unknown layer"])
def test_a_mismatch_is_an_error_and_leaves_nothing_behind(spoil, tmp_path):
    vlm, manifest, masks = pruned(FAMILIES["llava"])
    save(tmp_path / "out", vlm, manifest=manifest, masks=masks)
    before = sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / "out").iterdir())
    layer = next(iter(masks))
    if spoil == "zero moved":
        vlm.model.get_submodule(layer).weight.data.fill_(1)
    elif spoil == "wrong mask":
        masks[layer] = masks[layer].roll(1, 1)
    elif spoil == "mask missing":
        del masks[layer]
    else:
        manifest.plan["lm_head"] = "2:4"
        masks["lm_head"] = torch.ones(64, 24, dtype=torch.bool)
    for target in ("out", "new"):
        with pytest.raises(RunError) as error:
            save(tmp_path / target, vlm, manifest=manifest, masks=masks)
        assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / "out").iterdir()) == before


def test_inspection_sees_a_pattern_that_does_not_hold(tmp_path):
    vlm, manifest, masks = pruned(FAMILIES["clip"])
    made = save(tmp_path / "out", vlm, manifest=manifest, masks=masks)
    broken = made.layers[0]
    vlm.model.get_submodule(broken.name).weight.data[0, :4] = 1
    vlm.model.save_pretrained(tmp_path / "out")
    count = count_sparsity(tmp_path / "out")
    assert not count.holds
    assert [layer.name for layer in count.layers if layer.holds is False] == [broken.name]


def test_a_damaged_folder_is_named(tmp_path):
    vlm, manifest, masks = pruned(FAMILIES["clip"])
    out = tmp_path / "out"
    save(out, vlm, manifest=manifest, masks=masks)
    weights = out / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(RunError, match=r"model\.safetensors cannot be read"):
        count_sparsity(out)
    (out / MANIFEST).write_text("{}")
    with pytest.raises(UsageError, match=MANIFEST):
        read_manifest(out)
    (out / MANIFEST).unlink()
    (out / MASKS).write_bytes(b"no masks")
    with pytest.raises(UsageError, match=MANIFEST):
        read_manifest(out)
    with pytest.raises(UsageError, match=MASKS):
        read_masks(out)


def test_load_gives_back_what_was_saved(tmp_path):
    vlm, manifest, masks = pruned(FAMILIES["clip"])
    vlm.processor = processor()
    save(tmp_path / "out", vlm, manifest=manifest, masks=masks)
    loaded = load(tmp_path / "out")
    assert (type(loaded.model), type(loaded.processor)) == (hf.CLIPModel, hf.CLIPProcessor)
    assert loaded.source == str(tmp_path / "out")
    assert not loaded.model.training
    assert all(torch.equal(v, vlm.model.state_dict()[k]) for k, v in loaded.model.state_dict().items())
    assert load(str(tmp_path / "out"), dtype="bfloat16").model.dtype == torch.bfloat16


def refused(spec: str | Path, match: str) -> None:
    with pytest.raises(UsageError, match=match) as refusal:
        load(spec)
    assert "\n" not in str(refusal.value)


def test_what_cannot_be_loaded_is_refused_in_a_sentence(tmp_path, monkeypatch):
    refused("nowhere", "No such folder: nowhere; give a folder with config.json, a hub id, or 'embedded'")
    refused(tmp_path / "nowhere", "No such folder")
    refused(tmp_path, r"no config\.json")
    monkeypatch.setattr(loading, "HF_HUB_OFFLINE", True)
    refused("some-one/some-model", "HF_HUB_OFFLINE is set")
    text = tmp_path / "text"
    hf.LlamaForCausalLM(hf.LlamaConfig(**LANGUAGE)).save_pretrained(text)
    refused(text, "not a vision-language model")
    clip = FAMILIES["clip"].model()
    clip.save_pretrained(tmp_path / "bare")
    refused(tmp_path / "bare", "processor")
    (tmp_path / "bare" / "model.safetensors").unlink()
    refused(tmp_path / "bare", r"holds no model\.safetensors")
    short = {name: value for name, value in clip.state_dict().items() if "fc1" not in name}
    clip.save_pretrained(tmp_path / "short", state_dict=short)
    refused(tmp_path / "short", r"lacks \d+ weights of a CLIPModel .*fc1")
    (tmp_path / "unknown").mkdir()
    (tmp_path / "unknown" / "config.json").write_text('{"model_type": "unheard-of"}')
    refused(tmp_path / "unknown", "cannot be loaded")


def test_a_sparsity_config_is_not_passed_on(tmp_path):
    vlm, manifest, masks = pruned(FAMILIES["clip"])
    vlm.model.config.sparsity_config = {"format": "dense"}
    save(tmp_path / "out", vlm, manifest=manifest, masks=masks)
    assert "sparsity_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_what_was_saved_is_read_once_and_counted_from_the_files(tmp_path, monkeypatch):
    read: list[str] = []
    get = StoredTensors.__getitem__
    monkeypatch.setattr(StoredTensors, "__getitem__", lambda self, key: (read.append(key), get(self, key))[1])
    vlm, manifest, masks = pruned(FAMILIES["llava"])
    saved = save(tmp_path / "out", vlm, manifest=manifest, masks=masks)
    linears = sorted(layer.tensor for layer in saved.layers)
    assert sorted(read) == linears
    read.clear()
    count = count_sparsity(tmp_path / "out")
    assert sorted(read) == linears
    assert count.towers == saved.towers
    stored = StoredTensors(tmp_path / "out")
    for layer in count.layers:
        weight = stored[next(each.tensor for each in saved.layers if each.name == layer.name)]
        assert layer.sparsity == int((weight == 0).sum()) / weight.numel()


def test_a_budget_for_moving_pictures_is_not_taken_for_that_of_one(tmp_path):
    """Qwen2-VL's processors say 128,000 tokens."""
    path = tmp_path / "processor_config.json"
    path.write_text(json.dumps({"image_processor": {}, "video_processor": {"max_video_tokens": 128_000}}))
    check_companions(tmp_path)
    path.write_text(json.dumps({"image_processor": {"max_image_tokens": 128_000}}))
    with pytest.raises(UsageError, match="max_image_tokens"):
        check_companions(tmp_path)


def test_chunks_of_no_size_are_no_chunks(tmp_path):
    """Phi-4-multimodal's audio tower has them."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "llava", "audio_config": {"chunk_size": -1}}))
    read_config(tmp_path)
    path.write_text(json.dumps({"model_type": "llava", "text_config": {"hidden_size": -1}}))
    with pytest.raises(UsageError, match="hidden_size -1"):
        read_config(tmp_path)
