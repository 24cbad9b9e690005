"""A result folder holds what its model's folder held, except what was pruned; the same run writes the same bytes."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from ressa.checkpoint import MANIFEST, MASKS, load
from ressa.errors import UsageError
from ressa.recipe import PruneRecipe, RepairRecipe
from ressa.run import run_recipe
from tests.commands.contents import contents, contents_but_times

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module", params=["instructblip", "llava"])
def dense(request, world, tmp_path_factory):
    """A model's folder with all that people keep in one."""
    folder = tmp_path_factory.mktemp("models") / "dense"
    shutil.copytree(getattr(world, request.param), folder)
    assert (folder / "qformer_tokenizer").is_dir() == (request.param == "instructblip")
    (folder / "LICENSE").write_text("Do as you like.\n")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
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
def twice(dense, world, tmp_path_factory):
    """Both stages, each run twice: prune → two folders, repair of the first → two folders."""
    root = tmp_path_factory.mktemp("twice")
    for name in ("a", "b"):
        output = root / f"pruned-{name}"
        run_recipe(PruneRecipe(model=str(dense), output=output, calibration=str(world.data), samples=4))
    options = {"reconstruct_epochs": 1, "reconstruct_samples": 4, "warmup_steps": 1}
    for name in ("a", "b"):
        output, data = root / f"repaired-{name}", str(world.data)
        recipe = RepairRecipe(
            model=str(root / "pruned-a"), output=output, data=data, samples=8, batch_size=4, options=options
        )
        run_recipe(recipe)
    return root


@pytest.mark.parametrize("stage", ["pruned-a", "repaired-a"])
def test_all_but_the_weights_is_the_input_s_byte_for_byte(dense, twice, stage):
    made, given = contents(twice / stage), contents(dense)
    for name in (WEIGHTS, MANIFEST, MASKS, "README.md"):
        made.pop(name)
    given["README.base.md"] = given.pop("README.md")
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
    first, second = (contents_but_times(twice / f"{stage}-{name}") for name in ("a", "b"))
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def with_dtype(config: dict, dtype: str) -> dict:
    parts = {key: with_dtype(part, dtype) if isinstance(part, dict) else part for key, part in config.items()}
    return parts | ({"dtype": dtype} if "dtype" in parts else {})


def test_a_config_says_the_dtype_that_the_weights_have(dense, world, tmp_path):
    config = json.loads((dense / "config.json").read_text())
    kind = "bfloat16"
    recipe = PruneRecipe(
        model=str(dense),
        output=tmp_path / "out",
        calibration=str(world.data),
        samples=1,
        method="magnitude",
        dtype=kind,
    )
    run_recipe(recipe)
    made = json.loads((tmp_path / "out" / "config.json").read_text())
    assert made == with_dtype(config, kind)
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / WEIGHTS).values()} == {torch.bfloat16}


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
