"""A sweep prunes a fresh copy each time, keeps every point, and goes on where it was cut short."""

import json

import pytest
import torch
from families import FAMILIES

from ressa.anatomy import find_anatomy
from ressa.checkpoint import Vlm, measure
from ressa.sweep import points_of, relative, sweep

FAMILY = FAMILIES["instructblip-t5"]


class Scorer:
    """Scores by the zeros it finds; may be told to fail after so many points."""

    def __init__(self, model, limit=10**6):
        self.model, self.limit, self.seen = model, limit, []

    def __call__(self):
        if len(self.seen) == self.limit:
            raise KeyboardInterrupt
        zeros = measure(self.model, find_anatomy(self.model))
        self.seen.append((round(zeros["vision"], 2), round(zeros["language"], 2)))
        score = 100 - 50 * zeros["vision"] - 50 * zeros["language"]
        return {"tasks": {"vqa": {"score": score}, "caption": {"score": 2 * score}}, "average": 1.5 * score}


def run(folder, model, scorer, figure="modality", seeds=(0,), **more):
    asked = []

    def inputs(seed):
        asked.append(seed)
        return [FAMILY.batch(seed)]

    identity = more.pop("identity", {"model": "tiny"})
    vlm = Vlm(model, None, "tiny")
    rows = sweep(vlm, figure, folder, inputs=inputs, score=scorer, seeds=seeds, identity=identity, **more)
    return rows, asked


def test_every_point_is_pruned_from_the_dense_weights(tmp_path):
    model = FAMILY.model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scorer = Scorer(model)
    rows, asked = run(tmp_path, model, scorer, seeds=(0, 10))
    points = points_of("modality")
    assert len(rows) == 1 + 2 * len(points) == len(scorer.seen)
    assert asked == [0, 10]  # once a seed
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (rows[0]["series"], rows[0]["relative"]) == ("dense", 100.0)
    for row in rows[1:]:
        share = 0.5 if ":" in row["x"] else float(row["x"]) / 100
        for tower in ("vision", "language"):
            expected = 0.0 if row[tower] == "dense" else share
            assert row["sparsity"][tower] == pytest.approx(expected, abs=0.03)  # whole weights a row
        assert row["sparsity"]["connector"] == 0
    assert len(list((tmp_path / "points").iterdir())) == len(rows)


def test_it_goes_on_and_shares_points_between_figures(tmp_path, capsys):
    model = FAMILY.model()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, model, Scorer(model, limit=5), method="magnitude")
    assert len(list((tmp_path / "points").iterdir())) == 5
    rest = Scorer(model)
    rows, asked = run(tmp_path, model, rest, method="magnitude")
    assert (len(rest.seen), len(rows), asked) == (28 - 5, 28, [])
    assert "An earlier run finished 5 of 28 points: going on from there." in capsys.readouterr().err
    whole, _ = run(tmp_path / "other", model, Scorer(model), method="magnitude")
    drop = {"seconds"}
    assert [{k: v for k, v in row.items() if k not in drop} for row in rows] == [
        {k: v for k, v in row.items() if k not in drop} for row in whole
    ]
    # 50:50 and 60:60 are points of both figures, and so is the dense model.
    other = Scorer(model)
    rows, _ = run(tmp_path, model, other, figure="allocation", method="magnitude")
    assert len(rows) - len(other.seen) == 3


def test_what_decides_a_score_is_part_of_a_points_name(tmp_path):
    model = FAMILY.model()
    run(tmp_path, model, Scorer(model), method="magnitude")
    for more in ({"identity": {"model": "tiny", "limit": 3}}, {"method": "random"}):
        again = Scorer(model)
        run(tmp_path, model, again, **{"method": "magnitude", **more})
        # The dense model's score does not depend on the method.
        assert len(again.seen) == 28 - (more == {"method": "random"})
    another, scorer = FAMILY.model(seed=1), None
    scorer = Scorer(another)
    run(tmp_path, another, scorer, method="magnitude")
    assert len(scorer.seen) == 28
    point = json.loads(next((tmp_path / "points").iterdir()).read_text())
    assert {"recipe", "scores", "average", "sparsity"} <= set(point)


def test_tasks_of_different_scales_count_alike():
    assert relative({"vqa": 25.0, "caption": 900.0}, {"vqa": 50.0, "caption": 900.0}) == 75.0
    assert relative({"vqa": 25.0, "caption": 0.0}, {"vqa": 50.0, "caption": 0.0}) == 50.0


def test_a_towers_weights_may_be_compared_over_the_layer(tmp_path):
    """Rows then differ in their zeros: in vision, which is told so, not in language, where Wanda compares by row."""
    model = FAMILY.model()
    anatomy = find_anatomy(model)
    uneven: dict[str, bool] = {}

    def look():
        for tower in ("vision", "language"):
            zeros = [(model.get_submodule(name).weight == 0).sum(1) for name in anatomy.linears(tower)]
            uneven[tower] = any(len(set(rows.tolist())) > 1 for rows in zeros)
        return {"tasks": {"vqa": {"score": 50.0}}, "average": 50.0}

    scorer = Scorer(model, limit=5)

    def until():
        scorer()
        return look()

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, model, until, figure="allocation", scopes={"vision": "layer"})
    assert uneven == {"vision": True, "language": False}
