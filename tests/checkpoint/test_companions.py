"""A result folder holds what its model's folder held, except what was pruned; the same run writes the same bytes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ressa.checkpoint import MANIFEST, MASKS, load
from ressa.embedded import model_folder
from ressa.errors import UsageError
from ressa.recipe import PruneRecipe, RepairRecipe
from ressa.run import run_recipe

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module", params=["embedded", "embedded-llava"])
def dense(request, tmp_path_factory):
    """A real model's folder with all that people keep in one."""
    folder = tmp_path_factory.mktemp("models") / "dense"
    shutil.copytree(model_folder(request.param), folder)
    (folder / "LICENSE").write_text("Do as you like.\n")
    (folder / "generation_config.json").write_text(
        '{"eos_token_id": 1, "pad_token_id": 0, "temperature": 0.2}'
    )
    (folder / "training_args.bin").write_bytes(b"not weights of this model")
    (folder / ".cache").mkdir()
    checkpoint = folder / "checkpoint-5"
    checkpoint.mkdir()
    (checkpoint / "tokenizer_config.json").write_text("{}")
    (checkpoint / WEIGHTS).write_bytes(b"weights of another model")
    return folder


@pytest.fixture(scope="module")
def twice(dense, tmp_path_factory):
    """Both stages, each run twice: prune → two folders, repair of the first → two folders."""
    root = tmp_path_factory.mktemp("twice")
    for name in ("a", "b"):
        pruned = PruneRecipe(model=str(dense), output=root / f"pruned-{name}", samples=8, batch_size=4)
        run_recipe(pruned)
    options = {"reconstruct_epochs": 1, "reconstruct_samples": 4}
    for name in ("a", "b"):
        recipe = RepairRecipe(
            model=str(root / "pruned-a"),
            output=root / f"repaired-{name}",
            samples=8,
            batch_size=4,
            options=options,
        )
        run_recipe(recipe)
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("stage", ["pruned-a", "repaired-a"])
def test_all_but_the_weights_is_the_input_s_byte_for_byte(dense, twice, stage):
    made, given = contents(twice / stage), contents(dense)
    for name in (WEIGHTS, MANIFEST, MASKS):
        made.pop(name)
    for name in (
        WEIGHTS,
        "training_args.bin",
        f"checkpoint-5/{WEIGHTS}",
        "checkpoint-5/tokenizer_config.json",
    ):
        given.pop(name)
    assert made == given


@pytest.mark.parametrize("stage", ["pruned", "repaired"])
def test_the_same_run_writes_the_same_bytes_but_for_times(twice, stage):
    first, second = contents(twice / f"{stage}-a"), contents(twice / f"{stage}-b")
    manifests = [json.loads(files.pop(MANIFEST)) for files in (first, second)]
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    for manifest in manifests:
        manifest.pop("seconds")
        manifest.get("allocation", {}).pop("seconds", None)
    assert manifests[0] == manifests[1]


def test_a_config_says_the_dtype_that_the_weights_have(dense, tmp_path):
    config = json.loads((dense / "config.json").read_text())
    recipe = PruneRecipe(
        model=str(dense), output=tmp_path / "out", method="magnitude", dtype="float32", samples=1
    )
    run_recipe(recipe)
    made = json.loads((tmp_path / "out" / "config.json").read_text())
    assert made == {**config, "dtype": "float32"}
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / WEIGHTS).values()} == {torch.float32}


def test_weights_that_the_config_has_no_place_for_are_not_lost_in_silence(dense, tmp_path):
    shutil.copytree(dense, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    key = "num_layers" if config["model_type"] == "instructblip" else "num_hidden_layers"
    config["text_config"][key] -= 1
    path.write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"make config\.json and weights agree"):
        load(tmp_path / "model")


def test_a_folder_s_own_python_never_runs(dense, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a prompt"))
    shutil.copytree(dense, tmp_path / "model")
    (tmp_path / "model" / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
    path.write_text(json.dumps(config))
    with pytest.raises(UsageError, match="code of its own"):
        load(tmp_path / "model")
    assert not (tmp_path / "ran").exists()
