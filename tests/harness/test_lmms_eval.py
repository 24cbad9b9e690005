"""The real lmms-eval on an embedded model, with tasks made of embedded scenes; skipped where it is not installed.

It may be in another environment: RESSA_HARNESS_PYTHON names its interpreter.
"""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ressa.cli import main
from ressa.data.prompts import QUESTION
from ressa.embedded.dataset import write_dataset
from ressa.errors import UsageError
from ressa.harness.running import find_interpreter, scores_of
from ressa.recipe import make_recipe

PYTHON = os.environ.get("RESSA_HARNESS_PYTHON") or (
    sys.executable if importlib.util.find_spec("lmms_eval") else ""
)
installed = pytest.mark.skipif(
    not PYTHON, reason="lmms-eval is not installed (RESSA_HARNESS_PYTHON may name where)"
)

TASK = """
dataset_path: json
dataset_kwargs:
  data_files: {{test: {rows}}}
  cache_dir: {cache}
test_split: test
doc_to_visual: !function utils.visual
doc_to_text: !function utils.text
"""
ANSWERS = """
task: scenes_answers
output_type: generate_until
doc_to_target: answer
generation_kwargs: {max_new_tokens: 10, num_beams: 1, do_sample: false, until: ["~"]}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}
"""
CHOICES = """
task: scenes_choices
output_type: multiple_choice
doc_to_choice: !function utils.choices
doc_to_target: !function utils.right
target_delimiter: ""
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
UTILS = """
from PIL import Image
def visual(doc, *_, **__):
    return [Image.open(doc["picture"]).convert("RGB")]
def text(doc, *_, **__):
    return doc["prompt"]
def choices(doc):
    return doc["choices"]
def right(doc):
    return doc["choices"].index(doc["answer"])
"""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A data set of few scenes, and the tasks that lmms-eval makes of its GQA questions."""
    root = tmp_path_factory.mktemp("scenes")
    write_dataset(root / "data", 0, {"test": 6})
    questions = json.loads((root / "data" / "gqa_test.json").read_text())
    answers = sorted({each["answer"] for each in questions.values()})
    rows = [
        {
            "picture": str(root / "data/images/test" / f"test_{int(each['imageId']) % 10**7:012d}.png"),
            "prompt": QUESTION.format(each["question"]),
            "answer": each["answer"],
            "choices": [each["answer"], *(other for other in answers if other != each["answer"])][:4][::-1],
        }
        for each in questions.values()
    ]
    tasks = root / "tasks"
    tasks.mkdir()
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = TASK.format(rows=root / "rows.jsonl", cache=root / "cache")
    (tasks / "answers.yaml").write_text(common + ANSWERS)
    (tasks / "choices.yaml").write_text(common + CHOICES)
    (tasks / "utils.py").write_text(UTILS)
    return root, len(rows)


@installed
@pytest.mark.parametrize("model", ["embedded", "embedded-llava"])
def test_lmms_eval_counts_what_ressa_counts(scenes, model, tmp_path, capfd):
    root, count = scenes
    own = tmp_path / "own.json"
    assert main(["evaluate", model, "--data", str(root / "data"), "--tasks", "gqa", "--json", str(own)]) == 0
    tasks = ["--harness-tasks", "scenes_answers,scenes_choices", "--include-path", str(root / "tasks")]
    words = ["evaluate", model, "--harness", "lmms-eval", *tasks, "--harness-python", PYTHON]
    assert main([*words, "--batch-size", "8", "--json", str(tmp_path / "scores.json")]) == 0
    out = capfd.readouterr().out
    assert "scenes_answers" in out
    found = json.loads((tmp_path / "scores.json").read_text())
    expected = json.loads(own.read_text())
    answers = found["tasks"]["scenes_answers"]
    assert answers["score"] * 100 == pytest.approx(expected["tasks"]["gqa"]["score"])
    assert (answers["metric"], answers["n"]) == ("exact_match", count)
    assert found["tasks"]["scenes_choices"]["score"] > 0.9  # chance is a quarter
    assert found["sparsity"] == expected["sparsity"]
    assert found["harness"]["name"] == "lmms-eval"
    assert found["average"] is None
    assert not list(tmp_path.glob(".*"))  # answers are kept until all are there


@installed
def test_an_evaluation_that_was_killed_goes_on_with_the_answers_it_has(scenes, tmp_path):
    root, count = scenes
    output = tmp_path / "scores.json"
    words = [
        "evaluate",
        "embedded",
        "--harness",
        "lmms-eval",
        "--harness-python",
        PYTHON,
        "--batch-size",
        "1",
    ]
    tasks = ["--harness-tasks", "scenes_answers", "--include-path", str(root / "tasks")]
    command = [sys.executable, "-m", "ressa", *words, *tasks, "--json", str(output)]
    kept = tmp_path / ".scores.json.partial" / "answers.jsonl"
    run = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait_for(lambda: kept.is_file() and kept.read_text().count("\n") >= 2)
    run.kill()
    run.wait()
    child = "-m\0ressa.harness.child\0"
    wait_for(lambda: not any(child in words for words in command_lines()))
    lines = kept.read_text().splitlines()
    task, answers = json.loads(lines[0])
    assert not output.exists()
    kept.write_text("\n".join([json.dumps([task, dict.fromkeys(answers, "nonsense")]), *lines[1:]]) + "\n")
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    found = json.loads(output.read_text())["tasks"]["scenes_answers"]
    assert found["n"] == count
    assert found["score"] <= 1 - 1 / count  # the answer that was changed is the one that was scored
    assert not kept.parent.exists()


def wait_for(happened, seconds=240):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.2)


def command_lines():
    """Those of every process of this machine."""
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield place.read_text(errors="replace")


@installed
def test_what_is_wrong_within_the_harness_is_one_sentence(scenes, tmp_path, capfd):
    root, _ = scenes
    words = ["evaluate", "embedded", "--harness", "lmms-eval", "--harness-python", PYTHON]
    assert main([*words, "--harness-tasks", "no_such_task", "--include-path", str(root / "tasks")]) == 2
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("ressa: ")]
    assert len(said) == 1
    assert "no task no_such_task" in said[0]


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"harness": "lmms-eval"}, "names of its tasks"),
        ({"harness": "lmms-eval", "harness_tasks": "mme", "pool": 7}, "decide 'pool' themselves"),
        ({"harness": "lmms-eval", "harness_tasks": "mme", "beams": 2}, "decide 'beams' themselves"),
        ({"harness_tasks": "mme"}, "is for a harness"),
        ({"harness": "vlmevalkit", "harness_tasks": "mme"}, "harness"),
    ],
)
def test_recipes_that_make_no_sense(told, sentence):
    with pytest.raises(UsageError, match=sentence):
        make_recipe({"command": "evaluate", "model": "embedded", **told})


def test_an_environment_without_it_is_told_how_to_have_it(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"ressa\[lmms-eval\]"):
        find_interpreter(None)
    with pytest.raises(UsageError, match="cannot be started"):
        find_interpreter(tmp_path / "python")
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    (tmp_path / "python").chmod(0o755)
    with pytest.raises(UsageError, match=r"does not have both.*No module named"):
        find_interpreter(tmp_path / "python")


def test_numbers_of_lmms_eval_as_scores():
    results = {
        "mme": {
            "alias": "mme",
            "mme_cognition_score,none": 312.5,
            "mme_cognition_score_stderr,none": "N/A",
            "mme_cognition_score_stderr_clt,none": 2.0,
            "mme_perception_score,none": 1480.25,
            "submission,none": None,
        },
        "pope": {"alias": "pope", "acc,strict": 0.875, "acc_stderr,strict": 0.01, " ": " "},
    }
    scores = scores_of(results, {"mme": 2374, "pope": 9000})
    assert {name: (each["score"], each["n"]) for name, each in scores.items()} == {
        "mme/mme_cognition_score": (312.5, 2374),
        "mme/mme_perception_score": (1480.25, 2374),
        "pope": (0.875, 9000),
    }
    assert scores["pope"]["stderr"] == 0.01
    assert scores["pope"]["metric"] == "acc, strict"
    assert "stderr" not in scores["mme/mme_cognition_score"]


def test_the_plugin_names_a_class_that_is_there():
    assert Path(importlib.util.find_spec("ressa.harness.lmms_model").origin).is_file()
