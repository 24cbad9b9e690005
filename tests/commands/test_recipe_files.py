"""The recipes that ship: all can be told beforehand, and each kind runs on a small model by changing two lines."""

import json
from pathlib import Path

import pytest

from ressa.checkpoint.known import KNOWN, known_model
from ressa.commands.estimate import estimate
from ressa.data.folder import DatasetFolder
from ressa.recipe import PruneRecipe, read_recipes

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
# What the models' pages say of their parameters, in billions.
PARAMETERS = {
    "Salesforce/instructblip-flan-t5-xl": 4.02,
    "Salesforce/instructblip-vicuna-7b": 7.91,
    "Salesforce/blip2-opt-2.7b": 3.74,
    "Salesforce/blip2-opt-6.7b": 7.75,
}


def test_every_recipe_is_told_with_neither_model_nor_data_at_hand(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    files = {path.stem: read_recipes(path) for path in RECIPES}
    assert len(files) == 21
    told = estimate([recipe for recipes in files.values() for recipe in recipes])
    assert len(told) == sum(map(len, files.values()))
    for outcome in told:
        assert outcome.data["summary"]
        assert min(outcome.data["memory"].values()) >= 0
        assert sum(outcome.data["seconds_on_h100"].values()) > 0
    missing = " ".join(told[0].data["missing"])
    assert "There is no dataset folder data/paper" in missing
    assert {name for name in KNOWN if name in missing} == set(KNOWN)
    assert not list(tmp_path.iterdir())
    # Every method, pattern and tower of the paper's tables stands in one of them.
    prunings = [recipe for recipes in files.values() for recipe in recipes if isinstance(recipe, PruneRecipe)]
    assert {each.method for each in prunings} == {"random", "magnitude", "wanda", "sparsegpt", "dsnot"}
    assert {each.allocation for each in prunings} == {"uniform", "ecoflap-first", "ecoflap-zeroth"}
    assert {each.pattern for each in prunings} == {"0.5", "0.6", "0.7", "2:4", "4:8"}
    assert all(each.preset in ("paper", "paper-vicuna") for recipes in files.values() for each in recipes)


@pytest.mark.parametrize("name", PARAMETERS)
def test_known_shapes_are_those_of_the_models(name):
    count = sum(parameter.numel() for parameter in known_model(name).parameters())
    assert count / 1e9 == pytest.approx(PARAMETERS[name], rel=0.02)
    assert known_model("somebody/else") is None


def test_what_is_told_is_what_is_done(ressa, world, tmp_path, monkeypatch):
    """A repair of a model that is not there yet has the steps and weights that it has then; on the tiny model."""
    monkeypatch.chdir(tmp_path)
    recipe = next(path for path in RECIPES if path.stem == "instructblip-flan-t5-xl")
    sets = ["--set", f"model={world.instructblip}", "--set", f"data={world.data}", "--set", "pattern=2:4"]
    sets += ["--set", "samples=6", "--set", "limit=2", "--set", "device=cpu"]
    told = ressa("run", recipe, *sets, "--dry-run", "--json")
    assert told.status == 0, told.err
    assert not list(tmp_path.iterdir())
    done = ressa("run", recipe, *sets, "--json")
    assert done.status == 0, done.err
    told, done = json.loads(told.out), json.loads(done.out)
    assert [each["command"] for each in told] == ["prune", "evaluate", "repair", "evaluate"]
    assert told[0]["missing"] == [f"{world.data} has nothing for nocaps: it will be left out."]
    assert told[0]["layers"] == len(done[0]["plan"])
    assert (told[2]["steps"], told[2]["trained"]) == (
        done[2]["training"]["steps"],
        done[2]["training"]["trained"],
    )
    assert done[2]["recipe"]["preset"] == "paper"
    assert done[2]["training"]["held_back"] == {}
    settings = done[3]["asked"]["vqa"]
    assert (settings["beams"], settings["length_penalty"], settings["metric"]) == (5, -1, "lavis")


@pytest.mark.parametrize(
    ("file", "model", "options"),
    [
        ("instructblip-vicuna-7b", "llava", {"pattern": 0.5, "samples": 4, "limit": 2}),
        ("ecoflap-zeroth", "instructblip", {"pattern": 0.5, "samples": 4, "limit": 2}),
        (
            "repair-after",
            "instructblip",
            {"pattern": 0.5, "method": "dsnot", "order": "first", "samples": 4, "limit": 2},
        ),
        ("dense", "instructblip", {"limit": 2}),
        ("figure-allocation", "instructblip", {"images": 2, "samples": 2, "tasks": "[retrieval]"}),
    ],
)
def test_each_kind_runs_on_a_tiny_model(ressa, world, tmp_path, monkeypatch, file, model, options):
    monkeypatch.chdir(tmp_path)
    recipe = next(path for path in RECIPES if path.stem == file)
    sets = {"model": getattr(world, model), "data": world.data, **options}
    said = ressa(
        "run", recipe, *(word for name, value in sets.items() for word in ("--set", f"{name}={value}"))
    )
    assert said.status == 0, said.err
    results = [path for path in tmp_path.rglob("*.json") if path.parent.name == file]
    assert results


def test_data_that_is_there_but_lacks_something(ressa, world, tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text(
        f"command: evaluate\nmodel: {world.llava}\ndata: {world.data}\nsplit: elsewhere\ntasks: [vqa]\n"
    )
    said = ressa("run", path, "--dry-run")
    assert said.status == 0, said.err
    assert "has no vqa in the split 'elsewhere'" in said.out
    assert DatasetFolder(world.data).has("vqa", "test")


def test_what_cannot_be_set_is_one_sentence(ressa, tmp_path):
    recipe = next(path for path in RECIPES if path.stem == "wanda")
    assert "called 'modle'" in ressa("run", recipe, "--set", "modle=embedded", "--dry-run").sentence
    assert "name=value" in ressa("run", recipe, "--set", "model", "--dry-run").sentence
    assert "no value" in ressa("run", recipe, "--set", "model=[a", "--dry-run").sentence
