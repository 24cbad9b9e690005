"""Cost and what it brings as a figure, and what of it is on the Pareto front."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from ressa.report.figures import COLOURS, _save

Point = tuple[float, float, str, str]  # cost, what it brings, its name, its kind


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other one beats: cheaper and as good, or better and as cheap; the cheapest first."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda each: (each[0], -each[1])):
        if not kept or point[1] > kept[-1][1]:
            kept.append(point)
    return kept


def pareto_figure(panels: Mapping[str, Sequence[Point]], path: str | Path, title: str = "") -> None:
    """A panel a model: processor seconds (logarithmic) against the score in per cent of the dense model's, the Pareto
    front as a line; written as PNG."""
    figure = Figure(figsize=(5.6 * len(panels), 4.8), dpi=120, layout="constrained")
    kinds = list(dict.fromkeys(point[3] for points in panels.values() for point in points))
    for axes, (name, points) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        best = front(points)
        axes.plot(
            [x for x, *_ in best], [y for _, y, *_ in best], "-", color="#999999", linewidth=1, zorder=1
        )
        for index, kind in enumerate(kinds):
            own = [point for point in points if point[3] == kind]
            colour = COLOURS[(index + 1) % len(COLOURS)]
            axes.scatter([x for x, *_ in own], [y for _, y, *_ in own], color=colour, label=kind, zorder=2)
        _name(axes, points)
        axes.set_xscale("log")
        axes.set_xlabel("processor seconds")
        axes.set_title(name, fontsize=11)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axes.xaxis.set_minor_formatter("{x:g}")
        axes.tick_params(axis="x", which="both", labelsize=8)
        axes.margins(y=0.1)
        axes.grid(color="#e5e5e5", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, frameon=False, loc="lower left")
    figure.axes[0].set_ylabel("score, % of the dense model's")
    figure.suptitle(title, fontsize=11)
    _save(figure, path)


def _name(axes: Any, points: Sequence[Point]) -> None:
    """Write names to the left of the points, among the dearer half and among the cheaper each above the one below."""
    costs, heights = [x for x, *_ in points], [y for _, y, *_ in points]
    middle = (min(costs) * max(costs)) ** 0.5
    line = 0.045 * max(max(heights) - min(heights), 1e-9)
    for dear in (False, True):
        height = -float("inf")
        for x, y, label, _ in sorted(points, key=lambda point: point[1]):
            if (x > middle) == dear:
                height = max(y, height + line)
                axes.text(x * 0.94, height, label, ha="right", va="center", fontsize=7)
    axes.set_xlim(min(costs) / 2.5, max(costs) * 1.3)
