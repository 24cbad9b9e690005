"""Whatever is wrong with a model's folder is said in one sentence that names it, and nothing in it runs."""

import json
import os
import pickle
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ressa.checkpoint import MANIFEST, MASKS, count_sparsity, load, read_masks
from ressa.errors import RunError, UsageError
from ressa.recipe import PruneRecipe
from ressa.run import run_recipe
from tests.data.vlms import VLMS

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
SHARD = "model-00001-of-00001.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "llava"
    model, processor = VLMS["llava"]()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "model")


def refused(look, folder: Path) -> str:
    """The one sentence with which a folder is refused."""
    with pytest.raises((UsageError, RunError)) as refusal:
        look(folder)
    sentence = str(refusal.value)
    assert "\n" not in sentence
    assert str(folder) in sentence
    return sentence


both = pytest.mark.parametrize("look", [load, count_sparsity])


def edit(path: Path, change) -> None:
    value = json.loads(path.read_text())
    path.write_text(json.dumps(change(value)))


@both
@pytest.mark.parametrize("size", [0, 1, 8, 100, 5000, -1])
def test_weights_that_are_cut_off(look, folder, size):
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:size])
    assert f"{WEIGHTS} cannot be read" in refused(look, folder)


@both
@pytest.mark.parametrize(
    "content", [b"\xff" * 5000, struct.pack("<Q", 2**60) + b"{}", struct.pack("<Q", 2) + b"[]"]
)
def test_weights_that_are_none(look, folder, content):
    (folder / WEIGHTS).write_bytes(content)
    assert f"{WEIGHTS} cannot be read" in refused(look, folder)


def sharded(folder: Path) -> dict:
    """The folder's weights as one shard; its index."""
    keys = list(load_file(folder / WEIGHTS))
    (folder / WEIGHTS).rename(folder / SHARD)
    return {"metadata": {}, "weight_map": dict.fromkeys(keys, SHARD)}


@both
@pytest.mark.parametrize(
    ("shard", "said"),
    [
        ("model-00002-of-00002.safetensors", "lacks model-00002-of-00002.safetensors"),
        ("../other.safetensors", r"names ../other.safetensors, which is no file beside it"),
        ("/etc/passwd", "which is no file beside it"),
        (5, "which is no file beside it"),
    ],
)
def test_an_index_that_names_what_is_not_there(look, folder, shard, said):
    index = sharded(folder)
    shutil.copy(folder / SHARD, folder.parent / "other.safetensors")
    index["weight_map"] = dict.fromkeys(index["weight_map"], shard)
    (folder / INDEX).write_text(json.dumps(index))
    assert said in refused(look, folder)


@both
@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weight_map": []}', "[" * 100_000])
def test_an_index_that_is_none(look, folder, text):
    sharded(folder)
    (folder / INDEX).write_text(text)
    assert f"{INDEX} is no index" in refused(look, folder)


@both
def test_an_index_and_shards_that_do_not_agree(look, folder):
    index = sharded(folder)
    index["weight_map"]["ghost.weight"] = SHARD
    (folder / INDEX).write_text(json.dumps(index))
    assert f"{SHARD} lacks ghost.weight" in refused(look, folder)


@both
@pytest.mark.parametrize("tower", ["text_config", "vision_config"])
@pytest.mark.parametrize(
    "key", ["hidden_size", "num_attention_heads", "intermediate_size", "num_hidden_layers"]
)
@pytest.mark.parametrize("value", [-1, "many", None, [], 10**9])
def test_sizes_in_a_config_that_cannot_be(look, folder, tower, key, value):
    def change(config):
        config[tower][key] = value
        return config

    edit(folder / "config.json", change)
    refused(look, folder)


@both
@pytest.mark.parametrize(
    "text", ["", "[]", '"x"', "5", "null", '{"a": ', "\0", "[" * 10**5, '{"a":' * 10**5, "{}"]
)
def test_a_config_that_is_none(look, folder, text):
    (folder / "config.json").write_text(text)
    refused(look, folder)


@both
@pytest.mark.parametrize("names", ["x", [1], [None], {"a": 1}, 0])
def test_architectures_that_are_no_names(look, folder, names):
    edit(folder / "config.json", lambda config: config | {"architectures": names})
    assert "has architectures" in refused(look, folder)


@pytest.mark.parametrize("names", [[], ["AutoConfig"], ["pipeline"], ["__version__"], ["Nonsense"]])
def test_architectures_that_are_no_models_are_passed_by(folder, names):
    edit(folder / "config.json", lambda config: config | {"architectures": names})
    assert type(load(folder).model).__name__ == "LlavaForConditionalGeneration"


@pytest.mark.parametrize(
    "name", ["processor_config.json", "tokenizer_config.json", "tokenizer.json", "generation_config.json"]
)
@pytest.mark.parametrize("text", ["", "[]", "5", '{"a": ', "[" * 10**5])
def test_other_files_that_are_damaged_are_named(folder, name, text):
    (folder / name).write_text(text)
    assert f"{name} is damaged" in refused(load, folder)


@both
@pytest.mark.parametrize("alone", [True, False])
def test_an_adapter_is_to_be_merged_first(look, folder, alone):
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    if alone:
        (folder / "config.json").unlink()
    assert "merge it first" in refused(look, folder)


def test_a_model_far_larger_than_its_weights_is_not_made_up(folder):
    # Whose default is a Llama of 7B.
    edit(folder / "config.json", lambda config: config | {"text_config": None})
    assert "describes a model of 6," in refused(load, folder)


def pickled(folder: Path, value: object) -> None:
    (folder / WEIGHTS).unlink()
    torch.save(value, folder / "pytorch_model.bin")


def test_pickled_weights_are_read_as_tensors_alone(folder):
    expected, inspected = load(folder).model.state_dict(), count_sparsity(folder)
    pickled(folder, load_file(folder / WEIGHTS))
    assert all(torch.equal(value, expected[name]) for name, value in load(folder).model.state_dict().items())
    assert count_sparsity(folder) == inspected


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@both
def test_nothing_in_pickled_weights_runs(look, folder, tmp_path):
    pickled(folder, {"a": Evil(tmp_path / "ran")})
    assert "more than tensors" in refused(look, folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    refused(look, folder)
    assert not (tmp_path / "ran").exists()


@pytest.fixture(scope="module")
def made(whole, tmp_path_factory):
    output = tmp_path_factory.mktemp("made") / "pruned"
    run_recipe(PruneRecipe(model=str(whole), output=output, method="magnitude", samples=1))
    return output


def another_layer(layers):
    layers[0]["name"], layers[0]["tensor"] = "model.nothing", ""


def another_shape(layers):
    layers[0]["shape"] = [1, 1]


def no_weights(layers):
    layers[0]["shape"] = [0, 0]


@pytest.mark.parametrize("spoil", [another_layer, another_shape, no_weights])
def test_a_manifest_that_is_of_another_model(made, tmp_path, spoil):
    folder = shutil.copytree(made, tmp_path / "made")

    def change(manifest):
        spoil(manifest["layers"])
        return manifest

    edit(folder / MANIFEST, change)
    assert "not of one model" in refused(count_sparsity, folder)


def test_masks_that_are_damaged_or_of_another_model(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "made")
    whole = (folder / MASKS).read_bytes()
    for content in (b"", whole[:100], whole[:-1], whole.replace(b'\\": 32', b'\\": 99', 1)):
        (folder / MASKS).write_bytes(content)
        assert f"{MASKS} holds no masks" in refused(read_masks, folder)
