"""Recipes: the same object in YAML and in Python, and a sentence for everything that is wrong with one."""

import pytest

from ressa.errors import UsageError
from ressa.recipe import (
    RECIPES,
    DemoRecipe,
    EvaluateRecipe,
    PruneRecipe,
    RepairRecipe,
    ReportRecipe,
    SweepRecipe,
    from_yaml,
    make_recipe,
    read_recipes,
    to_yaml,
    write_recipe,
)

PRUNE = {"command": "prune", "model": "m", "output": "o"}

EXAMPLES = [
    PruneRecipe(model="m", output="o", pattern="50%", vision="dense", language="4:8", seed=3),
    PruneRecipe(model="m", output="o", method="magnitude", pattern="0.5", vision="0.5@row"),
    RepairRecipe(
        model="p", dense="m", output="o", learning_rate=3e-5, mixture="captions", options={"warmup_steps": 5}
    ),
    EvaluateRecipe(model="m", tasks=["vqa", "retrieval"], limit=10),
    SweepRecipe(model="m", output="o", figure="modality", seeds=[0, 2]),
    DemoRecipe(model="embedded-llava"),
    ReportRecipe(models=["a", "b"], output="r.html", looks=5),
]


@pytest.mark.parametrize("recipe", EXAMPLES, ids=lambda recipe: recipe.command)
def test_a_recipe_survives_yaml(recipe):
    assert from_yaml(to_yaml(recipe)) == [recipe]


def test_several_recipes_share_a_file(tmp_path):
    path = tmp_path / "all.yaml"
    path.write_text("---\n".join(map(to_yaml, EXAMPLES)))
    assert read_recipes(path) == EXAMPLES
    write_recipe(path, EXAMPLES[0])
    assert read_recipes(path) == EXAMPLES[:1]


def test_every_command_has_an_example_here():
    assert {recipe.command for recipe in EXAMPLES} == set(RECIPES)


def test_an_unquoted_pattern_is_not_a_base_60_number():
    (recipe,) = from_yaml("command: prune\nmodel: m\noutput: o\npattern: 2:4\nlanguage: 0.6\nsamples: 64\n")
    assert (recipe.pattern, recipe.language, recipe.samples) == ("2:4", "0.6", 64)
    (recipe,) = from_yaml("command: repair\nmodel: m\noutput: o\nlearning_rate: 1e-4\n")
    assert recipe.learning_rate == 1e-4


@pytest.mark.parametrize("spelling", [0.5, "0.5", "50%", ".5", "50 %"])
def test_spellings_of_one_pattern_are_one_recipe(spelling):
    assert PruneRecipe(model="m", output="o", pattern=spelling).pattern == "0.5"


def test_towers_follow_the_pattern_unless_they_have_their_own():
    recipe = PruneRecipe(model="m", output="o", pattern="2:4", language="dense")
    assert recipe.towers() == {"vision": "2:4", "connector": "dense", "language": "dense"}


def test_identity_leaves_out_where_it_runs_and_is_written():
    here = PruneRecipe(model="m", output="a", device="cpu")
    there = PruneRecipe(model="m", output="b", device="cuda:1")
    assert here.identity() == there.identity()
    assert here.identity() != PruneRecipe(model="m", output="a", seed=1).identity()


def test_the_demo_is_made_of_recipes_a_user_could_write():
    demo = DemoRecipe(model="embedded-llava", output="out", seed=2)
    for recipe in (demo.prune, demo.repair, demo.evaluate("pruned")):
        assert from_yaml(to_yaml(recipe)) == [recipe]
        assert recipe.seed == 2
    assert demo.repair.model == str(demo.prune.output)
    assert demo.prune.towers() == {"vision": "2:4", "connector": "dense", "language": "2:4"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"command": "prune", "output": "o"}, "lacks 'model'"),
        (PRUNE | {"patern": "2:4"}, "did you mean 'pattern'?"),
        (PRUNE | {"colour": "red"}, "no key 'colour': its keys are"),
        (PRUNE | {"pattern": "4:2"}, "4:2"),
        (PRUNE | {"pattern": 1.5}, "1.5"),
        (PRUNE | {"language": -0.1}, "-0.1"),
        (PRUNE | {"method": "wonda"}, "wonda"),
        (PRUNE | {"options": {"blocks": 3}}, "no option 'blocks'"),
        (PRUNE | {"vision": "dense", "language": "dense"}, "nothing would be pruned"),
        (PRUNE | {"samples": 0}, "'samples' of the prune recipe cannot be 0"),
        (PRUNE | {"device": "gpu"}, "no device 'gpu'"),
        (PRUNE | {"dtype": "int8"}, "'dtype'"),
        ({"command": "evaluate", "model": "m", "tasks": "vqa,chess"}, "no task 'chess'"),
        ({"command": "evaluate", "model": "m", "tasks": []}, "o task is named"),
        ({"command": "repair", "model": "m", "output": "o", "kd_weight": 2}, "'kd_weight'"),
        ({"command": "sweep", "model": "m", "output": "o", "options": {"blocks": 3}}, "no option 'blocks'"),
        ({"command": "demo", "method": "wonda"}, "wonda"),
        ({"command": "demo", "pattern": "4:2"}, "4:2"),
        ({"command": "demo", "pattern": "dense"}, "'dense' is not a pattern"),
        ({"command": "fly"}, "'fly' is not a command"),
        ({"command": ["prune"]}, "['prune'] is not a command"),
        ({"command": {"prune": 1}}, "is not a command"),
        (PRUNE | {"seed": 2**32}, "'seed'"),
        (PRUNE | {"seed": 10**400}, "'seed'"),
        (PRUNE | {"samples": 10**30}, "'samples'"),
        (PRUNE | {"alpha": float("nan")}, "finite"),
        (PRUNE | {"output": ""}, "cannot be empty"),
        (PRUNE | {"output": "runs/.."}, "no name for a new folder"),
        (PRUNE | {"output": "a\0b"}, "control characters"),
        (PRUNE | {"model": " "}, "cannot be empty"),
        (PRUNE | {"split": "a/b"}, "no name of a split"),
        (PRUNE | {"method": "sparsegpt", "options": {"percdamp": "abc"}}, "percdamp"),
        (PRUNE | {"method": "sparsegpt", "options": {"blocksize": 0}}, "blocksize"),
        (PRUNE | {"method": "dsnot", "options": {"start": "random"}}, "start"),
        (PRUNE | {"pattern": [[["2:4"]]]}, "pattern"),
        (PRUNE | {"colour" * 1000: "red"}, "no key"),
        ({"command": "repair", "model": "m", "output": "o", "epochs": float("inf")}, "'epochs'"),
        (
            {"command": "repair", "model": "m", "output": "o", "options": {"learning_rates": {"vision": -1}}},
            "learning",
        ),
        (
            {"command": "sweep", "model": "m", "output": "o", "seeds": "0,4294967296"},
            "eeds are whole numbers",
        ),
        ({"model": "m"}, "names no command"),
        (["prune"], "key: value"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(values, said):
    with pytest.raises(UsageError) as error:
        make_recipe(values)
    sentence = str(error.value)
    assert said in sentence
    assert "\n" not in sentence
    assert sentence[-1] in ".?"
    assert len(sentence) < 800


LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("a: [", "not YAML"),
        ("3", "key: value"),
        ("- command: prune", "key: value"),
        ("command: [prune]", "not a command"),
        ("command: prune\noutput: 2026-99-99", "not YAML"),
        (f"command: prune\nsamples: {'9' * 5000}", "not YAML"),
        ("command: !!python/object/apply:os.system [ls]", "not YAML"),
        ("[" * 50_000, "deeper"),
        (LAUGHS, "deeper"),
        ("a: &a [*a]", "deeper"),
        ("x: " + "y" * 2_000_000, "longer"),
    ],
)
def test_a_text_that_is_no_recipe_is_refused(text, said):
    with pytest.raises(UsageError, match=said):
        from_yaml(text)


def test_a_missing_or_unreadable_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no recipe file"):
        read_recipes(tmp_path / "absent.yaml")
    (tmp_path / "marked.yaml").write_text("command: demo\n", encoding="utf-8-sig")
    assert read_recipes(tmp_path / "marked.yaml") == [DemoRecipe()]
    (tmp_path / "picture.yaml").write_bytes(b"\x89PNG\xff")
    with pytest.raises(UsageError, match="not readable"):
        read_recipes(tmp_path / "picture.yaml")


def test_how_a_repair_is_saved_and_fed_decides_nothing_of_it_but_is_told():
    plain = RepairRecipe(model="m", output="a", options={"steps": 3})
    fed = RepairRecipe(model="m", output="a", options={"steps": 3, "workers": 2, "checkpoints": 0})
    assert fed.identity() == plain.identity()
    assert fed.besides()["options"] == {"steps": 3, "workers": 2, "checkpoints": 0}
    assert "options" not in plain.besides()
    assert RepairRecipe(**{**fed.identity(), **fed.besides(), "output": "a"}) == fed


def test_minutes_are_of_a_training():
    with pytest.raises(ValueError, match="leave out minutes"):
        RepairRecipe(model="m", output="a", options={"method": "reconstruct", "minutes": 3}).config()
