"""Recipe files that do not repeat themselves: `let`, `for`, `steps`, and values given from outside."""

import pytest

from ressa.errors import UsageError
from ressa.recipe import from_yaml

FILE = """
let:
  model: some/model
  runs: runs/{model}
---
for:
  method: [wanda, magnitude]
  pattern: [0.5, 2:4]
steps:
  - command: prune
    model: "{model}"
    method: "{method}"
    pattern: "{pattern}"
    output: "{runs}/{method}-{pattern}"
  - command: evaluate
    model: "{runs}/{method}-{pattern}"
    tasks: [vqa]
"""


def said(recipes):
    return [
        (r.model, r.method, r.pattern, str(r.output)) if r.command == "prune" else (r.model, r.tasks)
        for r in recipes
    ]


def test_steps_are_done_for_each_combination_in_order():
    assert said(from_yaml(FILE)) == [
        ("some/model", "wanda", "0.5", "runs/some/model/wanda-0.5"),
        ("runs/some/model/wanda-0.5", ("vqa",)),
        ("some/model", "wanda", "2:4", "runs/some/model/wanda-2-4"),
        ("runs/some/model/wanda-2-4", ("vqa",)),
        ("some/model", "magnitude", "0.5", "runs/some/model/magnitude-0.5"),
        ("runs/some/model/magnitude-0.5", ("vqa",)),
        ("some/model", "magnitude", "2:4", "runs/some/model/magnitude-2-4"),
        ("runs/some/model/magnitude-2-4", ("vqa",)),
    ]


def test_names_loops_and_keys_can_be_given():
    found = from_yaml(
        FILE, {"model": "embedded", "method": "random", "pattern": ["4:8"], "limit": 5, "samples": 7}
    )
    prune, evaluate = found
    assert (prune.model, prune.method, prune.pattern, prune.samples) == ("embedded", "random", "4:8", 7)
    assert str(prune.output) == "runs/embedded/random-4-8"  # what is made of a name follows it
    assert (evaluate.model, evaluate.limit) == ("runs/embedded/random-4-8", 5)


def test_a_single_recipe_may_be_repeated_too():
    recipes = from_yaml(
        "for: {seed: [0, 1, 2]}\ncommand: prune\nmodel: m\noutput: o-{seed}\nseed: '{seed}'\n"
    )
    assert [(r.seed, str(r.output)) for r in recipes] == [(0, "o-0"), (1, "o-1"), (2, "o-2")]


def test_numbers_and_lists_stay_what_they_are():
    (recipe,) = from_yaml(
        "let: {tasks: [vqa, gqa], few: 3}\n---\ncommand: evaluate\nmodel: m\ntasks: '{tasks}'\nlimit: '{few}'\n"
    )
    assert (recipe.tasks, recipe.limit) == (("vqa", "gqa"), 3)


def test_a_file_without_names_keeps_its_braces():
    (recipe,) = from_yaml("command: evaluate\nmodel: '{model}'\nquestion_prompt: 'Q: {} A:'\n")
    assert (recipe.model, recipe.question_prompt) == ("{model}", "Q: {} A:")


@pytest.mark.parametrize(
    ("text", "given", "message"),
    [
        ("let: {a: 1}\n---\ncommand: prune\nmodel: '{b}'\noutput: o\n", {}, "uses {b}"),
        ("let: {a: 1}\ncommand: prune\n", {}, "document of its own"),
        ("let: [a]\n---\ncommand: prune\n", {}, "document of its own"),
        ("let: {A b: 1}\n---\ncommand: prune\n", {}, "no name for a value"),
        ("for: [a]\ncommand: prune\n", {}, "'for' has lines"),
        ("for: {a: 1}\ncommand: prune\n", {}, "no list of values"),
        ("for: {a: []}\ncommand: prune\n", {}, "no list of values"),
        ("steps: []\n", {}, "list of recipes"),
        ("steps: [{command: prune}]\nmodel: m\n", {}, "stands beside"),
        ("for: {a: [1, 2]}\nsteps: [prune]\n", {}, "A recipe is a list"),
        (FILE, {"modle": "embedded"}, "'modle'"),
        (FILE, {"pattern": "3"}, "pattern|share"),
        (
            "for: {a: [1,2,3,4,5,6,7,8,9,0], b: [1,2,3,4,5,6,7,8,9,0], c: [1,2,3,4,5,6,7,8,9,0], d: [1,2]}\n"
            "command: prune\nmodel: m\noutput: o\n",
            {},
            "more than 1,000 recipes",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence(text, given, message):
    with pytest.raises(UsageError, match=message) as error:
        from_yaml(text, given)
    assert "\n" not in str(error.value)
