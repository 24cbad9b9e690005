"""`ressa inspect --recipe`: what is printed makes the same result again."""

import json

import pytest
from huggingface_hub import ModelCard

from ressa.recipe import EvaluateRecipe, PruneRecipe, RepairRecipe, from_yaml
from tests.commands.contents import contents_but_times


@pytest.fixture
def made(world, ressa, tmp_path, monkeypatch):
    """A pruned folder, and one repaired from it, named as people do: from the folder they are in."""
    monkeypatch.chdir(tmp_path)
    prune = ("prune", world.llava, "-o", "runs/pruned", "--calibration", world.data, "--samples", 4)
    said = ressa(*prune, "--pattern", "50%", "--vision", "2:4", "--on-bad-sample", "skip", "--seed", 7)
    assert said.status == 0, said.err
    options = ("--option", "reconstruct_epochs=1", "--option", "reconstruct_samples=4", "--max-pixels", 10**6)
    said = ressa("repair", "runs/pruned", "-o", "runs/repaired", "--data", world.data, "--samples", 8,
                 "--batch-size", 4, *options)  # fmt: skip
    assert said.status == 0, said.err
    return tmp_path / "runs"


def test_the_recipes_of_a_result_make_it_again_bit_for_bit(made, world, ressa, tmp_path):
    printed = ressa("inspect", "runs/repaired", "--recipe")
    assert printed.status == 0, printed.err
    pruning, repair = from_yaml(printed.out)
    assert isinstance(pruning, PruneRecipe)
    assert isinstance(repair, RepairRecipe)
    assert (pruning.model, pruning.pattern, pruning.vision) == (str(world.llava), "0.5", "2:4")
    assert (pruning.on_bad_sample, pruning.seed) == ("skip", 7)
    assert (repair.model, repair.max_pixels) == ("runs/pruned", 10**6)
    before = {name: contents_but_times(made / name) for name in ("pruned", "repaired")}
    made.rename(tmp_path / "first")
    (tmp_path / "again.yaml").write_text(printed.out)
    said = ressa("run", "again.yaml")
    assert said.status == 0, said.err
    assert {name: contents_but_times(made / name) for name in before} == before
    card = (made / "repaired" / "README.md").read_text()
    assert printed.out.partition("\n---\n")[2].splitlines()[0] in card

    as_json = ressa("inspect", made / "repaired", "--recipe", "--json")
    assert [each["command"] for each in json.loads(as_json.out)["recipes"]] == ["prune", "repair"]


def test_the_recipe_of_an_evaluation(world, ressa, tmp_path):
    where = ("--data", world.data, "--tasks", "vqa,gqa", "--limit", 2)
    assert ressa("evaluate", world.llava, *where, "--json", tmp_path / "scores.json").status == 0
    (recipe,) = from_yaml(ressa("inspect", tmp_path / "scores.json", "--recipe").out)
    assert isinstance(recipe, EvaluateRecipe)
    assert (recipe.tasks, recipe.limit, recipe.output) == (("vqa", "gqa"), 2, tmp_path / "scores.json")


def test_scores_on_a_card(made, world, ressa):
    """Of the model itself, and of the one it was made from; what was scored otherwise is not shown beside them."""
    where = ("--data", world.data, "--tasks", "vqa,gqa", "--limit", 2)
    for model in (world.llava, "runs/repaired"):
        assert ressa("evaluate", model, *where, "--card", "runs/repaired").status == 0
    card = ModelCard((made / "repaired" / "README.md").read_text())
    assert "|  | dense | repaired |" in card.text
    assert {each.dataset_type for each in card.data.eval_results} == {"vqa", "gqa"}
    assert {each.dataset_split for each in card.data.eval_results} == {"test"}
    assert "(split test, limit 2, pool 200)" in card.text
    said = ressa("evaluate", "runs/pruned", *where[:-1], 1, "--card", "runs/repaired", "--json")
    assert "another way" in said.err
    assert "recipe" in json.loads(said.out)
    text = (made / "repaired" / "README.md").read_text()
    assert "|  | pruned |" in text
    assert "|  | dense |" not in text.partition("## Scores")[2]
    said = ressa("evaluate", world.llava, *where, "--card", world.llava)
    assert (said.status, "no ressa.json" in said.sentence) == (2, True)


def test_what_has_no_recipe(world, ressa, tmp_path):
    (tmp_path / "other.json").write_text('{"recipe": {"command": "cook"}}')
    for place in (world.llava, tmp_path / "absent", tmp_path / "other.json"):
        said = ressa("inspect", place, "--recipe")
        assert (said.status, "does not say by which recipe" in said.sentence) == (2, True)
    said = ressa("inspect", world.llava, "--recipe", "--layers")
    assert (said.status, "leave out --layers" in said.sentence) == (2, True)
