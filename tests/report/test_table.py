"""Tables say what the results say."""

import io

import pytest
from rich.console import Console

from ressa.report import comparison_table, recovered, scores_table


def result(vqa, caption, *, zeros=0.0, seconds=None):
    return {
        "tasks": {"vqa": {"score": vqa}, "caption": {"score": caption, "metric": "CIDEr-D"}},
        "average": (vqa + caption) / 2,
        "sparsity": {"vision": zeros, "connector": 0.0, "language": zeros},
        "seconds": seconds,
    }


RESULTS = {
    "dense": result(90, 400),
    "pruned": result(50, 200, zeros=0.5, seconds=12.3),
    "repaired": result(80, 350, zeros=0.5, seconds=100.6),
}


def test_recovered_is_the_share_of_the_loss():
    assert recovered(90, 50, 80) == pytest.approx(0.75)
    assert recovered(90, 50, 40) == pytest.approx(-0.25)
    assert recovered(90, 90, 95) is None


def test_the_comparison_holds_every_number():
    table = comparison_table(RESULTS, "a title")
    assert table.columns == ("", "dense", "pruned", "repaired", "recovered")
    rows = {label: cells for label, *cells in table.rows}
    assert rows["VQA"] == ["90.0", "50.0", "80.0", "75%"]
    assert rows["captions (CIDEr-D)"] == ["400.0", "200.0", "350.0", "75%"]
    assert rows["average"] == ["245.0", "125.0", "215.0", "75%"]
    assert rows["zeros, language"] == ["0.0%", "50.0%", "50.0%", "–"]
    assert rows["seconds to make"] == ["–", "12", "101", "–"]


def test_a_task_that_one_model_lacks_leaves_a_gap():
    other = {**RESULTS["pruned"], "tasks": {"vqa": {"score": 1.0}}}
    rows = {label: cells for label, *cells in comparison_table({"a": RESULTS["dense"], "b": other}).rows}
    assert rows["captions (CIDEr-D)"] == ["400.0", "–"]
    assert "recovered" not in comparison_table({"a": RESULTS["dense"], "b": other}).columns


def test_markdown_and_terminal_show_the_same_cells():
    table = comparison_table(RESULTS, "a title")
    lines = table.markdown().splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == len(table.rows) + 2
    console = Console(file=io.StringIO(), width=80)
    console.print(table.rich())
    text = console.file.getvalue()
    assert "a title" in text
    assert all(cell in text for row in table.rows for cell in row)


def test_of_many_kinds_those_with_the_most_samples_are_shown_and_types_of_answers_always():
    kinds = {f"kind {n}": {"score": 50.0, "n": n} for n in range(1, 31)}
    types = {"yes/no": {"score": 75.0, "n": 9}, "other": {"score": 25.0, "n": 9}}
    score = {"score": 50.0, "n": 18, "kinds": kinds, "answer_types": types}
    rows = scores_table({"tasks": {"vqa": score}, "average": None}).rows
    assert [row[0].strip() for row in rows[1:4]] == ["yes/no", "other", "kind 19"]
    assert len(rows) == 1 + 2 + 12 + 1
    assert "18 more kinds" in rows[-1][0]
