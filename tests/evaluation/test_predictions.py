"""Predictions are saved beside the scores, and can be scored again without a model."""

import json
from types import SimpleNamespace

import pytest

from ressa.commands.score import score_predictions
from ressa.data import DatasetFolder
from ressa.errors import UsageError
from ressa.evaluation import answer, draw, fitted, result_of
from ressa.evaluation.predictions import read_predictions, write_predictions
from tests.data.official import aokvqa, coco, vizwiz
from tests.data.tiny_folders import THINGS, tiny_dataset
from tests.data.vlms import VLMS

TASKS = ("vqa", "gqa", "caption", "retrieval")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_dataset(tmp_path_factory.mktemp("data") / "tiny", images=6)


@pytest.fixture(scope="module")
def scored(folder, tmp_path_factory):
    """An evaluation, and the file of its predictions."""
    model, processor = VLMS["instructblip"]()
    vlm = SimpleNamespace(model=model, processor=processor)
    drawn = fitted(draw(folder, TASKS, split="test"), vlm)
    answered = answer(vlm, drawn, batch_size=4)
    result = result_of(drawn, answered)
    path = tmp_path_factory.mktemp("scores") / "scores.predictions.jsonl"
    recipe = {"command": "evaluate", "model": "tiny", "data": str(folder), "tasks": list(TASKS), "pool": 0}
    made = {"model": "tiny", "recipe": recipe, "data": result["data"]}
    write_predictions(path, drawn, answered.predictions, made)
    return path, result


def test_they_are_scored_again_the_same(scored):
    path, result = scored
    again = score_predictions(path).data
    for key in ("tasks", "average", "asked", "data"):
        assert again[key] == result[key], key
    assert again["warnings"] == []


def test_pictures_are_not_looked_at_again(scored, folder):
    path, result = scored
    pictures = {each: each.read_bytes() for each in (folder / "images").rglob("*.png")}
    assert pictures
    try:
        for each, content in pictures.items():
            each.write_bytes(bytes(len(content)))
        assert score_predictions(path).data["tasks"] == result["tasks"]
    finally:
        for each, content in pictures.items():
            each.write_bytes(content)


def test_a_line_says_what_was_asked_and_what_is_right(scored, folder):
    path, _ = scored
    first, *lines = map(json.loads, path.read_text().splitlines())
    assert first["model"] == "tiny"
    assert [line["task"] for line in lines] == [task for task in TASKS for _ in range(6)]
    vqa = lines[0]
    assert vqa["id"] == "100"
    assert vqa["question"] == "What is in the picture?"
    assert vqa["prompt"] == "Question: What is in the picture? Short answer:"
    assert vqa["references"] == [THINGS[0]] * 7 + ["house"] * 3
    assert isinstance(vqa["prediction"], str)
    assert len(lines[-1]["prediction"]["best"]) == 10


def test_another_form_of_the_metric_or_some_of_the_tasks(scored, tmp_path):
    path, _ = scored
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines[1:]:
        if line["task"] in ("vqa", "gqa"):
            line["prediction"] = f"The {line['references'][0].capitalize()}."
    mended = tmp_path / "mended.jsonl"
    mended.write_text("\n".join(map(json.dumps, lines)) + "\n")
    official = score_predictions(mended, tasks="gqa").data["tasks"]
    assert list(official) == ["gqa"]
    assert official["gqa"]["score"] == 0
    lavis = score_predictions(mended, metric="lavis").data["tasks"]
    assert lavis["gqa"] | {"kinds": {}} == {"score": 100, "n": 6, "metric": "LAVIS", "kinds": {}}
    assert lavis["vqa"]["score"] == 100


def test_results_for_a_data_sets_own_tool_are_scored_too(folder, tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{"question_id": 100 + n, "answer": THINGS[n % 4]} for n in range(6)]))
    found = score_predictions(path, tasks="vqa", data=str(folder), split="test").data
    assert found["tasks"]["vqa"]["score"] == 100
    path.write_text(json.dumps([{"image_id": n, "caption": f"the {THINGS[n % 4]}"} for n in range(6)]))
    assert (
        score_predictions(path, tasks="caption", data=str(folder), split="test").data["tasks"]["caption"]["n"]
        == 6
    )


def test_a_okvqa_s_results_answer_both_of_its_tasks_and_vizwiz_s_name_the_picture(tmp_path):
    coco(tmp_path, {"val2017": range(4)})
    aokvqa(tmp_path, {"val": range(4)})
    vizwiz(tmp_path)
    samples = DatasetFolder(tmp_path).samples("aokvqa", "val")
    results = {
        each.id: {"multiple_choice": each.choices[each.correct], "direct_answer": each.target}
        for each in samples
    }
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    for task, asked in (("aokvqa", 3), ("aokvqa-choice", 4)):  # one is too hard to answer directly
        found = score_predictions(path, tasks=task, data=str(tmp_path), split="val").data["tasks"][task]
        assert (found["n"], found["score"]) == (asked, 100)
    seen = DatasetFolder(tmp_path).samples("vizwiz", "val")
    path.write_text(json.dumps([{"image": f"{each.id}.jpg", "answer": each.target} for each in seen]))
    found = score_predictions(path, tasks="vizwiz", data=str(tmp_path), split="val").data["tasks"]["vizwiz"]
    assert (found["n"], found["score"]) == (len(seen), 100)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[{}]", "is no list of results"),
        ("[3]", "is no list of results"),
        ("", "Line 1 of"),
        ('{"ressa predictions": 1}', "holds no predictions"),
        ("{}", "Line 1 of .* is none of a file of predictions"),
        ('{"ressa predictions": 1}\n{"task": "vqa"}', "Line 2 of"),
        ('"ressa predictions"', "Line 1 of"),
        ('{"ressa predictions": 1, "recipe": 3}', "Line 1 of"),
        ('[{"question_id": 100, "answer": "cat"}]', "answers 1 of 6 samples of vqa"),
    ],
)
def test_what_cannot_be_scored_is_a_sentence(folder, tmp_path, content, said):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=said):
        score_predictions(path, tasks="vqa", data=str(folder), split="test")
    with pytest.raises(UsageError):
        read_predictions(path)


@pytest.mark.parametrize(
    ("task", "prediction"),
    [
        ("vqa", 3),
        ("caption", None),
        ("retrieval", "a cat"),
        ("retrieval", {"scoring": "likelihood", "text": {"better": -1, "equal": 1, "right": 1}, "image": []}),
        ("retrieval", {"scoring": "likelihood", "text": 3, "image": [3, 3]}),
    ],
)
def test_what_is_no_prediction_is_named(scored, tmp_path, task, prediction):
    path, _ = scored
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    line = next(line for line in lines[1:] if line["task"] == task)
    line["prediction"] = prediction
    spoilt = tmp_path / "spoilt.jsonl"
    spoilt.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(UsageError, match=f"of {task}, which is no prediction of that task"):
        score_predictions(spoilt)


def test_any_text_is_read_back_as_it_was(folder, tmp_path):
    drawn = draw(folder, ("gqa",), split="test")
    texts = ["a\u2028b", "c\x85d", "e\nf", '"', "\\", "\x1c🐕"]
    write_predictions(tmp_path / "said.jsonl", drawn, {"gqa": texts}, {})
    _, found = read_predictions(tmp_path / "said.jsonl").of(drawn)
    assert found == {"gqa": texts}


def test_other_data_than_they_were_made_from_are_said(scored, tmp_path, folder):
    path, _ = scored
    lines = path.read_text().splitlines()
    first = json.loads(lines[0])
    first["data"] = {"name": "tiny", "fingerprint": "another"}
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join([json.dumps(first), *lines[1:]]))
    assert "are not those" in score_predictions(other).data["warnings"][0]
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("\n".join([lines[0], *lines[2:]]))
    found = score_predictions(fewer).data
    assert found["tasks"]["vqa"]["n"] == 5
    assert "has no answer to 1 of 6 samples of vqa" in found["warnings"][0]
