"""A sweep's CSV can be read again and its figures are real."""

import csv

import numpy as np
import pytest
from PIL import Image

from ressa.report.plans import plan_bars, plan_blocks
from ressa.report.sweep import PAPER, PAPER_DENSE, summarise, sweep_figure, sweep_table, write_csv
from ressa.sweep import points_of


def rows_of(figure: str) -> list[dict]:
    dense = {
        "series": "dense",
        "x": "0",
        "vision": "dense",
        "language": "dense",
        "seed": 0,
        "relative": 100.0,
    }
    rows = [dense]
    for number, point in enumerate(points_of(figure)):
        for seed in (0, 1):
            relative = 90.0 - number + 4 * seed
            asked = {"vision": point.vision, "language": point.language}
            rows.append({"series": point.series, "x": point.x, **asked, "seed": seed, "relative": relative})
    for row in rows:
        row |= {
            "method": "wanda",
            "scores": {"vqa": row["relative"], "caption": 7.0},
            "average": row["relative"],
        }
    return rows


def test_the_points_are_the_papers():
    allocation = points_of("allocation")
    assert {float(p.vision) + float(p.language) for p in allocation if p.series == "sum 100 %"} == {1.0}
    assert {round(float(p.vision) + float(p.language), 9) for p in allocation if p.series == "sum 120 %"} == {
        1.2
    }
    modality = points_of("modality")
    assert len(modality) == 3 * 9
    assert {p.vision for p in modality if p.series == "language only"} == {"dense"}
    for figure, points in (("allocation", allocation), ("modality", modality)):
        places = {(p.series, p.x) for p in points}
        assert {(series, x) for series, curve in PAPER[figure].items() for x in curve} <= places
    assert max(v for curves in PAPER.values() for c in curves.values() for v in c.values()) < PAPER_DENSE


@pytest.mark.parametrize("figure", ["allocation", "modality"])
def test_csv_and_figure(figure, tmp_path):
    rows = rows_of(figure)
    write_csv(rows, tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert len(read) == len(rows)
    assert [float(line["relative"]) for line in read] == [row["relative"] for row in rows]
    assert {"series", "x", "vision", "language", "seed", "method", "vqa", "caption", "average"} <= set(
        read[0]
    )
    curve = summarise(rows)[rows[1]["series"]]
    assert curve[rows[1]["x"]] == (92.0, 90.0, 94.0)
    for name in ("a.png", "b.png"):
        sweep_figure(rows, figure, tmp_path / name, "a title")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert image.width >= 1000
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 50
    assert sweep_table(rows).rows[0][1] == "92.0"


def test_blocks_of_a_plan(tmp_path):
    layers = [
        {
            "name": f"model.{part}.layers.{block}.{linear}",
            "tower": tower,
            "shape": (4, 8),
            "sparsity": 0.1 * block,
        }
        for part, tower in (("vision_tower.encoder", "vision"), ("language_model", "language"))
        for block in (0, 1)
        for linear in ("attn.q", "mlp.fc1")
    ]
    layers.append(
        {"name": "model.projector.linear_1", "tower": "connector", "shape": (4, 4), "sparsity": 0.0}
    )
    blocks = plan_blocks(layers)
    assert [(label, tower, len(members)) for label, tower, members in blocks] == [
        ("encoder 0", "vision", 2),
        ("encoder 1", "vision", 2),
        ("language_model 0", "language", 2),
        ("language_model 1", "language", 2),
        ("projector", "connector", 1),
    ]
    plan_bars(blocks, tmp_path / "plan.png", "a plan")
    with Image.open(tmp_path / "plan.png") as image:
        assert image.width >= 900
