"""Results as figures: the same numbers always give the same bytes."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ressa.files import fresh_file
from ressa.report.table import Result, task_title

# Told apart by colour-blind readers.
COLOURS = ("#4d4d4d", "#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#66a61e")


def comparison_bars(results: Mapping[str, Result], path: str | Path, title: str = "") -> None:
    """Draw one group of bars a task and one for the average, one bar a model, and write it to `path` as PNG.

    The first result (the dense model) is the unit: heights are per cent of its score, so that tasks with
    different scales share one axis; the scores themselves stand above the bars. The legend gives each model's
    zeros by tower.
    """
    reference = next(iter(results.values()))
    groups = [*reference["tasks"], "average"]
    labels = [*(task_title(name, score) for name, score in reference["tasks"].items()), "average"]
    width = 0.8 / len(results)
    figure = Figure(figsize=(max(6.4, 1.7 * len(groups)), 4.4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    top = 100.0
    for index, (name, result) in enumerate(results.items()):
        scores = [_score(result, group) for group in groups]
        units = [_score(reference, group) for group in groups]
        heights = [100 * score / unit if unit > 0 else 0.0 for score, unit in zip(scores, units, strict=True)]
        places = [group + (index - (len(results) - 1) / 2) * width for group in range(len(groups))]
        colour = COLOURS[index % len(COLOURS)]
        bars = axes.bar(places, heights, width * 0.94, color=colour, label=_legend(name, result))
        axes.bar_label(bars, [f"{score:.1f}" for score in scores], padding=2, fontsize=8)
        top = max(top, *heights)
    axes.set_xticks(range(len(groups)), [label.replace(" (", "\n(") for label in labels], fontsize=10)
    axes.axvline(len(groups) - 1.5, color="#bbbbbb", linewidth=0.8)
    axes.set_ylim(0, top * 1.08)
    axes.set_ylabel(f"score, % of the {next(iter(results))} model's")
    axes.set_title(title, fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=min(len(results), 3), fontsize=9, frameon=False)
    _save(figure, path)


def _save(figure: Figure, path: str | Path) -> None:
    """Write the figure as PNG in one step, without the software's version in it."""
    FigureCanvasAgg(figure)
    with fresh_file(path) as work:
        figure.savefig(work, format="png", metadata={"Software": None})


def _score(result: Result, group: str) -> float:
    return float(result["average"] if group == "average" else result["tasks"][group]["score"])


def _legend(name: str, result: Result) -> str:
    zeros = {tower: share for tower, share in result.get("sparsity", {}).items() if share > 0}
    if not zeros:
        return f"{name} (no zeros)"
    return f"{name}\n(zeros: " + ", ".join(f"{tower} {share:.0%}" for tower, share in zeros.items()) + ")"
