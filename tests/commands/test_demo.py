"""The demo on a tiny model: what it leaves behind, and that it goes on where it stopped."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from huggingface_hub import ModelCard

from ressa.cli import main
from ressa.commands.made_by import show_recipe
from ressa.recipe import from_yaml

SIZES = {
    "samples": 4,
    "evaluation_images": 2,
    "evaluation_pool": 2,
    "evaluation_batch": 16,
    "repair_samples": 8,
    "repair_batch": 4,
}
OPTIONS = [word for name, value in SIZES.items() for word in (f"--{name.replace('_', '-')}", value)]

PLAIN = """
import sys
sys.modules["ressa"] = None  # importing it fails
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1])
processor = AutoProcessor.from_pretrained(sys.argv[1])
inputs = processor(images=Image.new("RGB", (32, 32)), text=sys.argv[2], return_tensors="pt")
assert model.generate(**inputs, max_new_tokens=3).shape[0] == 1
linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
pruned = [linear.weight for linear in linears if (linear.weight == 0).any()]
assert len(pruned) > 10
assert all((w.reshape(-1, 4) != 0).sum(1).max() <= 2 for w in pruned)
"""


def arguments(world, model, output):
    return ["demo", "--model", getattr(world, model), "--data", world.data, "-o", output, *OPTIONS]


@pytest.fixture(scope="module")
def demo(world, tmp_path_factory):
    """A finished demo of the tiny LLaVA."""
    output = tmp_path_factory.mktemp("demo") / "demo"
    assert main([str(word) for word in arguments(world, "llava", output)]) == 0
    return output


def check_story(output, prompt):
    """What every demo leaves: results, figure, and three folders that plain transformers loads."""
    results = json.loads((output / "results.json").read_text())
    assert {"dense", "pruned", "repaired", "recipe", "seconds", "versions"} <= results.keys()
    for name, share in {"dense": 0.0, "pruned": 0.5, "repaired": 0.5}.items():
        assert set(results[name]["tasks"]) == {"vqa", "okvqa", "gqa", "caption", "retrieval"}
        assert results[name]["sparsity"] == {"vision": share, "connector": 0.0, "language": share}
        assert isinstance(results[name]["average"], float)
        assert (output / name / "config.json").is_file()
    assert results["recipe"]["samples"] == SIZES["samples"]
    assert results["seconds"]["total"] > 0
    assert (output / "results.png").stat().st_size > 10_000
    card = ModelCard((output / "repaired" / "README.md").read_text())
    assert "| | dense | pruned | repaired | recovered |" in card.text.replace("|  |", "| |")
    scored = {each.dataset_type: each.metric_value for each in card.data.eval_results}
    assert scored == {name: round(each["score"], 2) for name, each in results["repaired"]["tasks"].items()}
    plain = subprocess.run(
        [sys.executable, "-c", PLAIN, output / "repaired", prompt], capture_output=True, text=True
    )
    assert plain.returncode == 0, plain.stderr


def test_the_demo_tells_the_whole_story(demo):
    check_story(demo, "<image> what is it ?")
    (recipe,) = from_yaml("\n".join(show_recipe(str(demo)).lines))
    assert recipe.identity() == json.loads((demo / "recipe.json").read_text())
    assert recipe.output == demo


def test_a_demo_goes_on_where_it_stopped(ressa, world, demo):
    before = json.loads((demo / "results.json").read_text())
    made = {
        path: path.stat().st_mtime_ns for path in demo.glob("*/*") if path.stem.split(".")[0] != "repaired"
    }
    (demo / "scores" / "repaired.json").unlink()
    (demo / "results.png").unlink()
    said = ressa(*arguments(world, "llava", demo))
    assert said.status == 0
    assert "average" in said.out
    assert "recover" in said.out
    assert (demo / "results.png").is_file()
    assert {path: path.stat().st_mtime_ns for path in made} == made
    after = json.loads((demo / "results.json").read_text())
    assert after["repaired"] == before["repaired"]


def test_another_demo_replaces_what_the_last_one_left(ressa, world, demo, tmp_path):
    output = tmp_path / "demo"
    shutil.copytree(demo, output)
    assert ressa(*arguments(world, "instructblip", output), "--seed", 1).status == 0
    check_story(output, "what is it ?")
    assert json.loads((output / "results.json").read_text())["recipe"]["seed"] == 1
    assert json.loads((output / "repaired" / "ressa.json").read_text())["seed"] == 1


def test_a_folder_that_is_no_demo_is_left_alone(ressa, world, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    said = ressa(*arguments(world, "llava", tmp_path), "--force")
    assert said.status == 2
    assert "not a demo's" in said.sentence
    assert os.listdir(tmp_path) == ["letter.txt"]


def test_a_model_that_is_not_there_leaves_nothing(ressa, world, tmp_path):
    said = ressa("demo", "--model", tmp_path / "absent", "--data", world.data, "-o", tmp_path / "demo")
    assert said.status == 2
    assert "absent" in said.sentence
    assert not (tmp_path / "demo").exists()
