"""`ressa sweep`, and pruning by an allocation or a given plan, from the command line."""

import json

import pytest
from PIL import Image

FEW = ("--samples", "4", "--batch-size", "4")


def test_a_sweep_writes_its_csv_and_figure_and_is_not_done_twice(world, ressa, tmp_path):
    out = tmp_path / "sweep"
    where = ("--data", world.data, "--calibration", world.data, "--tasks", "retrieval", "--pool", "2")
    first = ressa("sweep", world.llava, "-o", out, "--method", "magnitude", *FEW, *where)
    assert first.status == 0, first.err
    points = sorted((out / "points").iterdir())
    assert len(points) == 17
    stamps = [path.stat().st_mtime_ns for path in points]
    assert (out / "allocation-magnitude.csv").read_text().count("\n") == 18
    with Image.open(out / "allocation-magnitude.png") as image:
        assert image.width > 900
    again = ressa("sweep", world.llava, "-o", out, "--method", "magnitude", *FEW, *where, "--json")
    assert len(json.loads(again.out)["rows"]) == 17
    (tmp_path / "again.yaml").write_text(ressa("inspect", out, "--recipe").out)
    told = ressa("run", tmp_path / "again.yaml", "--json")
    assert json.loads(told.out) == json.loads(again.out)
    assert [path.stat().st_mtime_ns for path in sorted((out / "points").iterdir())] == stamps


def test_a_dense_model_that_scores_nothing_compares_with_nothing(world, ressa, tmp_path):
    where = ("--data", world.data, "--calibration", world.data, "--tasks", "vqa", "--limit", "1")
    said = ressa("sweep", world.llava, "-o", tmp_path / "sweep", "--method", "magnitude", *FEW, *where)
    assert said.status == 1
    assert "scores 0 on vqa" in said.sentence
    assert len(list((tmp_path / "sweep" / "points").iterdir())) == 1  # nothing was pruned for it


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("--figure", "pies"), "figure"),
        (("--seeds", "a,b"), "whole numbers"),
        (("--seeds", "-1"), "whole numbers"),
        (("--method", "best"), "no pruning method"),
    ],
)
def test_sweeps_that_make_no_sense(ressa, tmp_path, arguments, match):
    said = ressa("sweep", "embedded", "-o", tmp_path / "out", *arguments)
    assert said.status == 2
    assert match in said.sentence


def test_what_is_no_sweeps_is_left_alone(world, ressa):
    said = ressa("sweep", world.llava, "-o", world.data)
    assert (said.status, "not a sweep's" in said.sentence) == (2, True)


def test_an_allocation_is_carried_out_shown_drawn_and_used_again(world, ressa, tmp_path):
    where = ("--calibration", world.data, *FEW)
    said = ressa(
        "prune", world.llava, "-o", tmp_path / "owl", "--sparsity", "0.5", "--allocation", "owl", *where
    )
    assert said.status == 0, said.err
    manifest = json.loads((tmp_path / "owl" / "ressa.json").read_text())
    assert manifest["allocation"]["name"] == "owl"
    assert len(set(manifest["plan"].values())) > 1
    shown = ressa("inspect", tmp_path / "owl", "--layers", "--figure", tmp_path / "plan.png")
    assert shown.status == 0, shown.err
    assert "keeps to its pattern" in shown.out
    with Image.open(tmp_path / "plan.png") as image:
        assert image.width > 500
    reused = ressa("prune", world.llava, "-o", tmp_path / "reused", "--plan", tmp_path / "owl", *where)
    assert reused.status == 0, reused.err
    assert json.loads((tmp_path / "reused" / "ressa.json").read_text())["plan"] == manifest["plan"]


def test_auto_chooses_among_patterns(world, ressa, tmp_path):
    where = ("--calibration", world.data, *FEW)
    said = ressa(
        "prune", world.instructblip, "-o", tmp_path / "auto", "--sparsity", "0.3",
        "--allocation", "auto", "--choices", "6:8,4:8,2:4", *where,
    )  # fmt: skip
    assert said.status == 0, said.err
    manifest = json.loads((tmp_path / "auto" / "ressa.json").read_text())
    assert set(manifest["plan"].values()) <= {"6:8", "4:8", "2:4"}
    zeros = sum(
        l["achieved"] * l["shape"][0] * l["shape"][1] for l in manifest["layers"] if l["tower"] != "connector"
    )
    size = sum(l["shape"][0] * l["shape"][1] for l in manifest["layers"] if l["tower"] != "connector")
    assert zeros / size >= 0.3


@pytest.mark.parametrize("choices", [{}, {"choices": "6:8,4:8,2:4"}], ids=["shares", "choices"])
def test_auto_spends_multiply_adds_and_says_so(world, ressa, tmp_path, choices):
    out = tmp_path / "auto"
    recipe = {"vision": 0.2, "language": 0.4, "allocation": "auto", "unit": "multiply-adds", **choices}
    recipe |= {"calibration": world.data, "samples": 4, "output": out}
    said = ressa(
        "prune", world.llava, *(word for name, value in recipe.items() for word in (f"--{name}", value))
    )
    assert said.status == 0, said.err
    manifest = json.loads((out / "ressa.json").read_text())
    assert manifest["recipe"]["unit"] == manifest["allocation"]["unit"] == "multiply-adds"
    shares = manifest["allocation"]["saved"]
    assert f"{shares['multiply-adds']:.2%} of the multiply-adds" in said.out
    pruned = [layer for layer in manifest["layers"] if layer["tower"] != "connector"]
    sizes = [layer["shape"][0] * layer["shape"][1] for layer in pruned]
    zeros = sum(layer["achieved"] * size for layer, size in zip(pruned, sizes, strict=True))
    assert shares["parameters"] == pytest.approx(zeros / sum(sizes))

    recipe |= {"command": "prune", "model": world.llava}
    (tmp_path / "auto.yaml").write_text("".join(f"{name}: {value}\n" for name, value in recipe.items()))
    assert "already" in ressa("run", tmp_path / "auto.yaml").out


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("--allocation", "auto"), "fixed pattern"),
        (("--allocation", "best"), "allocation"),
        (("--choices", "2:4"), "only the allocation auto"),
        (("--unit", "multiply-adds"), "only the allocation auto counts multiply-adds"),
        (("--unit", "multiply-adds", "--allocation", "owl", "--sparsity", "0.5"), "only the allocation auto"),
        (("--unit", "multiply-adds", "--plan", "x"), "only the allocation auto"),
        (("--unit", "seconds", "--allocation", "auto", "--sparsity", "0.5"), "'unit'"),
        (("--scope", "global", "--allocation", "auto", "--sparsity", "0.5"), "leave out the allocation"),
        (("--plan", "nowhere.json"), "holds no plan"),
        (("--plan", "x", "--allocation", "owl", "--sparsity", "0.5"), "a plan says already"),
    ],
)
def test_allocations_that_make_no_sense(world, ressa, tmp_path, arguments, match):
    said = ressa("prune", world.llava, "-o", tmp_path / "out", *arguments)
    assert said.status == 2
    assert match.lower() in said.sentence.lower()
