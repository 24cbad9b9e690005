"""A sweep as CSV and as the paper's figures, the paper's own curves beside ours."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ressa.files import write_text
from ressa.report.figures import COLOURS, _save
from ressa.report.table import NOTHING, Table

Row = Mapping[str, Any]

PAPER_DENSE = 49.5
"""The dense average of the curves below."""

# RESSA (arXiv 2404.02424), read off its figures: series → x → average; per cent of PAPER_DENSE is drawn.
PAPER: dict[str, dict[str, dict[str, float]]] = {
    "allocation": {
        "sum 100 %": dict(
            zip(
                map(str, range(10, 100, 10)),
                (0.0, 2.6, 16.5, 41.6, 45.0, 40.2, 30.7, 28.6, 28.3),
                strict=True,
            )
        ),
        "sum 120 %": dict(
            zip(map(str, range(30, 100, 10)), (0.0, 3.4, 14.7, 34.2, 28.2, 27.8, 27.3), strict=True)
        ),
    },
    "modality": {
        "vision + language": {"50": 45.0, "60": 28.7, "70": 4.6, "4:8": 40.8, "2:4": 37.2},
        "language only": {"50": 47.8, "60": 41.8, "70": 31.4, "4:8": 45.2, "2:4": 44.1},
        "vision only": {"50": 47.1, "60": 42.3, "70": 16.8, "4:8": 45.9, "2:4": 44.1},
    },
}
LABELS = {
    "allocation": "sparsity of the vision tower, % (the language tower has the rest of the sum)",
    "modality": "sparsity, %",
}


def write_csv(rows: Sequence[Row], path: str | Path) -> None:
    """One line a point and seed: series, x, vision, language, method, seed, every task, average, relative."""
    tasks = list(rows[0]["scores"])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = ("series", "x", "vision", "language", "method", "seed")
    writer.writerow([*columns, *tasks, "average", "relative"])
    for row in rows:
        scores = [f"{row['scores'][task]:.2f}" for task in tasks]
        shown = [f"{row['average']:.2f}", f"{row['relative']:.1f}"]
        writer.writerow([*(row[column] for column in columns), *scores, *shown])
    write_text(path, text.getvalue())


def summarise(rows: Sequence[Row]) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Series → x → mean, least and greatest relative score over seeds; the dense row is left out."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row["series"] != "dense":
            found.setdefault(row["series"], {}).setdefault(row["x"], []).append(row["relative"])
    return {
        series: {x: (statistics.fmean(values), min(values), max(values)) for x, values in curve.items()}
        for series, curve in found.items()
    }


def sweep_table(rows: Sequence[Row], title: str = "") -> Table:
    """A row a series, a column a place on it: the relative score, mean over seeds."""
    curves = summarise(rows)
    places = list(dict.fromkeys(x for curve in curves.values() for x in curve))
    lines = tuple(
        (series, *(f"{curve[x][0]:.1f}" if x in curve else NOTHING for x in places))
        for series, curve in curves.items()
    )
    return Table(title, ("", *places), lines)


def sweep_figure(rows: Sequence[Row], figure: str, path: str | Path, title: str = "") -> None:
    """Draw a sweep (`allocation` or `modality`) as PNG: lines are ours, means over seeds with their spread;
    dashed and hollow is the paper's. Both in per cent of their dense score."""
    curves = summarise(rows)
    patterned = any(":" in x for curve in curves.values() for x in curve)
    canvas = Figure(figsize=(9.6 if patterned else 7.2, 4.6), dpi=150, layout="constrained")
    if patterned:
        lines, bars = canvas.subplots(1, 2, sharey=True, width_ratios=(7, 4))
    else:
        lines, bars = canvas.add_subplot(), None
    for index, (series, curve) in enumerate(curves.items()):
        colour = COLOURS[(index + 1) % len(COLOURS)]
        paper = {x: 100 * value / PAPER_DENSE for x, value in PAPER[figure].get(series, {}).items()}
        shares = [x for x in curve if ":" not in x]
        places = [float(x) for x in shares]
        lines.plot(places, [curve[x][0] for x in shares], "o-", color=colour, label=series, zorder=3)
        low, high = ([curve[x][bound] for x in shares] for bound in (1, 2))
        lines.fill_between(places, low, high, color=colour, alpha=0.2, linewidth=0)
        known = [x for x in paper if ":" not in x]
        lines.plot(
            [float(x) for x in known],
            [paper[x] for x in known],
            "o--",
            color=colour,
            markerfacecolor="white",
            linewidth=1.2,
            markersize=5,
            alpha=0.8,
            label=f"{series}, paper",
        )
        if bars is not None:
            _pattern_bars(bars, index, len(curves), colour, curve, paper)
    lines.set_xlabel(LABELS[figure])
    lines.set_ylabel("average score, % of the dense model's")
    lines.set_ylim(bottom=0)
    for axes in canvas.axes:
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    canvas.suptitle(title, fontsize=11)
    handles, labels = lines.get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside lower center", ncols=len(curves), fontsize=9, frameon=False)
    _save(canvas, path)


def _pattern_bars(
    axes: Any,
    index: int,
    count: int,
    colour: str,
    curve: Mapping[str, tuple[float, float, float]],
    paper: Mapping[str, float],
) -> None:
    """N:M patterns beside the lines: a bar for ours, a hollow mark for the paper's."""
    patterns = [x for x in curve if ":" in x]
    width = 0.8 / count
    places = [place + (index - (count - 1) / 2) * width for place in range(len(patterns))]
    means = [curve[x][0] for x in patterns]
    spread = [[curve[x][0] - curve[x][1] for x in patterns], [curve[x][2] - curve[x][0] for x in patterns]]
    axes.bar(places, means, width * 0.92, color=colour, yerr=spread, ecolor="#444444", capsize=2)
    marked = [(place, paper[x]) for place, x in zip(places, patterns, strict=True) if x in paper]
    axes.plot(
        [place for place, _ in marked],
        [value for _, value in marked],
        "o",
        color="black",
        markerfacecolor="white",
        markersize=6,
        zorder=4,
    )
    axes.set_xticks(range(len(patterns)), patterns)
    axes.set_xlabel("pattern (○ paper)")
