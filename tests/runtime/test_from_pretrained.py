"""A packed folder loads, answers, moves and saves through transformers as the plain one does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers as hf
from families import FAMILIES, every_family
from packed_folders import contents, sparse_embedded, sparse_family
from PIL import Image

import ressa
from ressa.anatomy import find_anatomy
from ressa.checkpoint import load, measure, pack_folder
from ressa.errors import RunError, UsageError
from ressa.runtime.linear import PackedLinear, weight_of
from ressa.runtime.model import packed_layers, prepare_all
from ressa.sparsity import parse_pattern
from tests.runtime.test_packing import same_bits

hf.utils.logging.disable_progress_bar()
EMBEDDED = ("embedded", "embedded-llava")


@pytest.fixture(scope="module", params=EMBEDDED)
def folders(request, tmp_path_factory) -> tuple[Path, Path]:
    """An embedded model, sparse and packed."""
    root = tmp_path_factory.mktemp(request.param)
    sparse = sparse_embedded(root / "sparse", request.param)
    pack_folder(sparse, root / "packed")
    return sparse, root / "packed"


def dense_and_packed(folders, **options):
    auto = hf.AutoModelForImageTextToText
    return tuple(auto.from_pretrained(folder, **options).eval() for folder in folders)


def question(folder: Path, model) -> dict[str, torch.Tensor]:
    processor = hf.AutoProcessor.from_pretrained(folder)
    image = Image.effect_noise((96, 96), 80).convert("RGB")
    text = f"{getattr(processor, 'image_token', '') if 'llava' in folder.parent.name else ''} what is this ?"
    inputs = processor(images=image, text=text, return_tensors="pt")
    return {k: v.to(model.dtype) if v.is_floating_point() else v for k, v in inputs.items()}


@pytest.mark.parametrize("dtype", ["auto", torch.float32, torch.float16], ids=str)
def test_every_weight_is_the_plain_folder_s(folders, dtype):
    dense, packed = dense_and_packed(folders, dtype=dtype)
    layers = packed_layers(packed)
    assert len(layers) > 50
    assert dense.dtype == packed.dtype
    modules = dict(dense.named_modules())
    assert all(same_bits(weight_of(layer), modules[name].weight) for name, layer in layers.items())
    others = {name for name, _ in dense.named_parameters() if name.removesuffix(".weight") not in layers}
    assert all(
        same_bits(p, packed.get_parameter(name)) for name, p in dense.named_parameters() if name in others
    )


@pytest.mark.parametrize("mode", ["auto", "packed"])
def test_it_generates_the_same_tokens_dynamically_and_with_a_static_cache(folders, mode):
    dense, packed = dense_and_packed(folders, dtype=torch.float32)
    prepare_all(packed, mode)
    inputs = question(folders[0], dense)
    for cache in ({}, {"cache_implementation": "static"}):
        expected = dense.generate(**inputs, max_new_tokens=6, do_sample=False, **cache)
        assert torch.equal(packed.generate(**inputs, max_new_tokens=6, do_sample=False, **cache), expected)


def test_it_compiles_without_a_break(tmp_path):
    family = FAMILIES["llava"]
    sparse = sparse_family(tmp_path / "sparse", family, torch.float32)
    pack_folder(sparse, tmp_path / "packed")
    auto = hf.AutoModelForImageTextToText
    dense, packed = (
        auto.from_pretrained(folder).model.language_model for folder in (sparse, tmp_path / "packed")
    )
    ids = family.batch()["input_ids"]
    with torch.inference_mode():
        expected = dense(input_ids=ids, use_cache=False).last_hidden_state
        for mode in ("auto", "packed"):
            prepare_all(packed, mode)
            compiled = torch.compile(packed, backend="aot_eager", fullgraph=True)
            assert torch.allclose(compiled(input_ids=ids, use_cache=False).last_hidden_state, expected)


def test_saving_it_writes_the_same_bytes_again(folders, tmp_path):
    _, packed = dense_and_packed(folders)
    packed.save_pretrained(tmp_path / "again")
    again, ours = contents(tmp_path / "again"), contents(folders[1])
    assert again["model.safetensors"] == ours["model.safetensors"]
    _, loaded = dense_and_packed((tmp_path / "again", tmp_path / "again"))
    assert packed_layers(loaded).keys() == packed_layers(packed).keys()
    assert "sparsity_config" not in again["config.json"].decode()


def test_it_unpacks_to_a_plain_model(folders, tmp_path):
    dense, packed = dense_and_packed(folders)
    plain = packed.dequantize()
    assert not packed_layers(plain)
    assert not hasattr(plain.config, "quantization_config")
    state = dense.state_dict()
    assert all(same_bits(tensor, state[name]) for name, tensor in plain.state_dict().items())
    plain.save_pretrained(tmp_path / "plain")
    assert contents(tmp_path / "plain")["model.safetensors"] == contents(folders[0])["model.safetensors"]


def test_moving_and_converting_change_what_they_should(folders):
    _, packed = dense_and_packed(folders)
    mask = {name: layer.packed().mask() for name, layer in packed_layers(packed).items()}
    wide = packed.to(torch.float32)
    assert {p.dtype for p in wide.parameters()} == {torch.float32}
    layers = packed_layers(wide)
    assert all(torch.equal(layers[name].packed().mask(), kept) for name, kept in mask.items())


def test_the_pipeline_of_transformers_takes_it(folders):
    if "llava" not in folders[0].parent.name:
        pytest.skip(
            "the pipeline wants an image token in the text, which InstructBLIP's processor adds itself"
        )
    image = Image.effect_noise((96, 96), 80).convert("RGB")
    said = [
        hf.pipeline("image-text-to-text", model=str(folder), dtype=torch.float32)(
            images=image, text="<image> what is this ?", generate_kwargs={"max_new_tokens": 5}
        )
        for folder in folders
    ]
    assert said[0][0]["generated_text"] == said[1][0]["generated_text"]


def test_ressa_loads_measures_and_unpacks_it(folders):
    dense, packed = ressa.load(folders[0]), ressa.load(folders[1], mode="packed")
    assert find_anatomy(dense.model) == find_anatomy(packed.model)
    assert measure(dense.model, find_anatomy(dense.model)) == measure(
        packed.model, find_anatomy(packed.model)
    )
    assert all(layer.prepared is None for layer in packed_layers(packed.model).values())
    assert packed.model.get_memory_footprint() < 0.6 * dense.model.get_memory_footprint()
    assert not packed_layers(ressa.load(folders[1], unpack=True).model)


def test_pruning_a_packed_model_unpacks_it_first(folders):
    vlm = ressa.load(folders[1])
    result = ressa.prune(vlm.model, [], {"vision": "2:4", "language": "80%"}, method="magnitude")
    assert not packed_layers(vlm.model)
    assert all(parse_pattern(layer.asked).verify(result.masks[layer.name]) for layer in result.layers)


@every_family
def test_every_family_computes_the_same_packed(family, tmp_path):
    sparse = sparse_family(tmp_path / "sparse", family, torch.float32)
    pack_folder(sparse, tmp_path / "packed")
    kind = type(family.model())
    dense, packed = (kind.from_pretrained(folder).eval() for folder in (sparse, tmp_path / "packed"))
    assert packed_layers(packed)
    batch = family.batch()
    with torch.inference_mode():
        expected, found = (model(**batch) for model in (dense, packed))
    tensors = [key for key, value in expected.items() if isinstance(value, torch.Tensor)]
    assert tensors
    assert all(torch.equal(found[key], expected[key]) for key in tensors)


def test_the_base_model_loads_alone(tmp_path):
    sparse = sparse_family(tmp_path / "sparse", FAMILIES["llava"])
    pack_folder(sparse, tmp_path / "packed")
    base = hf.AutoModel.from_pretrained(tmp_path / "packed")
    whole = hf.AutoModelForImageTextToText.from_pretrained(tmp_path / "packed")
    assert type(base) is hf.LlavaModel
    assert len(packed_layers(base)) == len(packed_layers(whole))


def test_a_damaged_folder_does_not_load(tmp_path):
    from tests.runtime.test_packed_folder import damage

    pack_folder(sparse_family(tmp_path / "sparse", FAMILIES["clip"]), tmp_path / "packed")
    damage(tmp_path / "packed", "a position is wrong")
    with pytest.raises(RunError, match="is damaged"):
        load(tmp_path / "packed")


def test_without_ressa_transformers_stops_and_names_it(tmp_path):
    pack_folder(sparse_family(tmp_path / "sparse", FAMILIES["clip"]), tmp_path / "packed")
    code = f"from transformers import AutoModel; AutoModel.from_pretrained({str(tmp_path / 'packed')!r})"
    loud = {key: value for key, value in os.environ.items() if key != "TRANSFORMERS_VERBOSITY"}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=loud)
    assert said.returncode != 0
    assert "got ressa" in said.stderr
    assert "`pip install ressa` and `import ressa` before from_pretrained" in said.stderr


def test_a_newer_format_is_refused(tmp_path):
    pack_folder(sparse_family(tmp_path / "sparse", FAMILIES["clip"]), tmp_path / "packed")
    config = tmp_path / "packed" / "config.json"
    config.write_text(config.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(UsageError, match="version 2"):
        load(tmp_path / "packed")


def test_layers_are_packed_linears_whose_weight_has_the_model_s_dtype(folders):
    """T5 casts to the dtype of `wo.weight`: whatever a layer holds, that must be the model's."""
    _, packed = dense_and_packed(folders, dtype=torch.float32)
    for mode in ("auto", "packed", "dense"):
        prepare_all(packed, mode)
        layers = [module for module in packed.modules() if isinstance(module, PackedLinear)]
        assert {layer.weight.dtype for layer in layers} == {torch.float32}
