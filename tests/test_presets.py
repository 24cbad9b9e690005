"""A preset fills what is not said, and whatever is said beside it holds."""

import json

import pytest
import torch
from data.vlms import VLMS
from repairing.tiny import TinyVlm, samples

from ressa.anatomy import find_anatomy
from ressa.cli import main
from ressa.data import batches
from ressa.errors import UsageError
from ressa.pruning import prune
from ressa.recipe import DemoRecipe, PruneRecipe, from_yaml, make_recipe, to_yaml

PRUNE = {"command": "prune", "preset": "paper", "model": "m", "output": "o"}
EVALUATE = {"command": "evaluate", "preset": "paper", "model": "m"}


def test_prune_as_the_paper_trains():
    recipe = make_recipe(PRUNE)
    assert (recipe.method, recipe.pattern, recipe.allocation) == ("wanda", "0.5", "uniform")
    assert (recipe.mixture, recipe.samples, recipe.statistics_of) == ("prefix-captions", 128, "dense")
    assert recipe.crops
    # The vision pruner compares over a layer, the language pruner within a row.
    assert recipe.towers() == {"vision": "0.5@layer", "connector": "dense", "language": "0.5"}


@pytest.mark.parametrize(
    ("given", "vision"),
    [
        ({"pattern": "2:4"}, "2:4"),
        ({"pattern": 0.7}, "0.7@layer"),
        ({"vision": "dense"}, "dense"),
        ({"vision": 0.6}, "0.6"),
        ({"method": "dsnot"}, "0.5"),
        ({"pattern": "0.5@row"}, "0.5"),
    ],
)
def test_the_vision_towers_scope_follows_pattern_and_method(given, vision):
    assert make_recipe({**PRUNE, **given}).towers()["vision"] == vision


def test_a_methods_own_arguments():
    assert make_recipe({**PRUNE, "method": "dsnot"}).options == {"max_cycle_time": 100}
    assert make_recipe({**PRUNE, "method": "sparsegpt"}).options == {"blocksize": 128}
    given = {"method": "dsnot", "options": {"max_cycle_time": 7, "update_threshold": 0.2}}
    assert make_recipe({**PRUNE, **given}).options == given["options"]
    assert make_recipe({**PRUNE, "allocation": "ecoflap-zeroth"}).margin == 1
    assert make_recipe({**PRUNE, "allocation": "ecoflap-zeroth", "margin": 0.2}).margin == 0.2
    assert make_recipe({**PRUNE, "allocation": "ecoflap-first"}).block_scores == "code"
    assert make_recipe(PRUNE).block_scores is None


def test_evaluate_as_the_paper_does():
    recipe = make_recipe(EVALUATE)
    assert (recipe.beams, recipe.answer_length_penalty, recipe.repetition_penalty) == (5, -1, 1.5)
    assert (recipe.answer_tokens, recipe.caption_tokens) == ("1-10", "8-30")
    assert (recipe.question_prompt, recipe.caption_prompt) == ("Question: {} Short answer:", "")
    vicuna = make_recipe({**EVALUATE, "preset": "paper-vicuna"})
    assert (vicuna.answer_length_penalty, vicuna.caption_tokens) == (0, "10-80")
    assert vicuna.caption_prompt == "A short image caption."


def test_a_sweep_as_the_papers_figures():
    sweep = {"command": "sweep", "preset": "paper", "model": "m", "output": "o"}
    recipe = make_recipe(sweep)
    assert (recipe.vision_scope, recipe.samples, recipe.beams, recipe.crops) == ("layer", 128, 5, True)
    assert make_recipe({**sweep, "method": "magnitude"}).vision_scope is None
    assert make_recipe({**sweep, "vision_scope": "row"}).vision_scope == "row"


def test_what_is_given_holds():
    assert make_recipe({**EVALUATE, "beams": 2, "seed": 7}).model_dump(include={"beams", "seed"}) == {
        "beams": 2,
        "seed": 7,
    }
    repair = {"command": "repair", "preset": "paper", "model": "p", "output": "o", "batch_size": 4}
    recipe = make_recipe({**repair, "options": {"weight_decay": 0, "precision": "fp32"}})
    assert recipe.batch_size == 4
    config = recipe.config()
    assert (config.weight_decay, config.precision, config.warmup_steps) == (0, "fp32", 1000)


def test_a_recipe_that_is_written_and_read_is_the_same():
    for command in ("prune", "repair", "sweep", "evaluate"):
        recipe = make_recipe({"command": command, "preset": "paper", "model": "m", "output": "o"})
        assert from_yaml(to_yaml(recipe)) == [recipe]
        assert "preset: paper" in to_yaml(recipe)
    assert PruneRecipe(preset="paper", model="m", output="o") == make_recipe(PRUNE)


def test_our_own_defaults_are_as_they_were():
    recipe = make_recipe({"command": "prune", "model": "m", "output": "o"})
    assert (recipe.preset, recipe.pattern, recipe.mixture, recipe.statistics_of) == (
        None,
        "2:4",
        "mix",
        "pruned",
    )
    config = make_recipe({"command": "repair", "model": "p", "output": "o"}).config()
    assert (config.weight_decay, config.warmup_steps, config.max_grad_norm) == (0, 0, 1)
    assert (config.schedule, config.kd_positions, config.kd_scaled) == ("cosine", "supervised", True)


def test_no_preset_is_guessed():
    with pytest.raises(UsageError, match="'preset' of the prune recipe"):
        make_recipe({**PRUNE, "preset": "papers"})
    assert "preset" not in DemoRecipe.model_fields


def test_from_the_command_line(tmp_path, capsys):
    """Options that stand there hold, also where they say what is the default without a preset."""
    line = ["prune", "embedded", "-o", str(tmp_path / "p"), "--preset", "paper", "--samples", "8"]
    assert main([*line, "--statistics-of", "pruned", "--dry-run", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["recipe"]["samples"] == 8
    assert said["recipe"]["statistics_of"] == "pruned"
    assert said["recipe"]["vision"] == "0.5@layer"
    assert said["recipe"]["preset"] == "paper"


@pytest.mark.parametrize("family", VLMS)
def test_statistics_of_the_dense_model(family, tmp_path):
    """Wanda by hand: norms of every layer's inputs in one forward of the dense model, sample by sample."""
    model, processor = VLMS[family]()
    vlm = TinyVlm(model.eval(), processor)
    inputs = batches(vlm, samples(6), 1)
    anatomy = find_anatomy(model)
    names = [*anatomy.linears("vision"), *anatomy.linears("language")]
    squares: dict[str, torch.Tensor] = {}
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _m, args, name=name: squares.__setitem__(
                name, squares.get(name, 0) + args[0].double().square().flatten(0, -2).sum(0)
            )
        )
        for name in names
    ]
    with torch.no_grad():
        for batch in inputs:
            model(**batch)
    for hook in hooks:
        hook.remove()
    names = [name for name in names if name in squares]
    scores = {name: model.get_submodule(name).weight.detach().abs() * squares[name].sqrt() for name in names}
    result = prune(
        model, inputs, 0.5, method="wanda", anatomy=anatomy, statistics_of="dense", work_dir=tmp_path / "work"
    )
    differing = total = 0
    for name in names:
        half = scores[name].shape[1] // 2
        kept = torch.zeros_like(scores[name], dtype=torch.bool)
        kept.scatter_(1, scores[name].topk(half, dim=1).indices, True)
        differing += int((kept != result.masks[name]).sum())
        total += kept.numel()
    assert differing <= 1e-4 * total  # ties of float32

    other, _ = VLMS[family]()
    pruned = prune(other.eval(), inputs, 0.5, method="wanda", statistics_of="pruned")
    last = names[-1]
    assert not torch.equal(pruned.masks[last], result.masks[last])
