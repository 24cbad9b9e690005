"""Results side by side, for the terminal (rich) and for documents (Markdown)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import rich.table

from ressa.task_names import TITLES

# "tasks": {task: {"score": …, "metric": …}}, "average", "sparsity": {tower: …}, "seconds"
Result = Mapping[str, Any]

NOTHING = "–"


@dataclass(frozen=True)
class Table:
    """A title, column titles, and rows of text; the first column is the label, the others are numbers.

    `sections` holds the indices of the rows that a line follows.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    sections: frozenset[int] = frozenset()

    def rich(self) -> rich.table.Table:
        """The table as rich draws it in a terminal."""
        table = rich.table.Table(title=self.title or None, title_justify="left")
        for index, column in enumerate(self.columns):
            table.add_column(
                column, justify="left" if index == 0 else "right", no_wrap=index == 0, overflow="fold"
            )
        for index, row in enumerate(self.rows):
            table.add_row(*row, end_section=index in self.sections)
        return table

    def markdown(self) -> str:
        """The table in GitHub's Markdown, without the title."""
        rule = ("---",) + ("---:",) * (len(self.columns) - 1)
        lines = (self.columns, rule, *self.rows)
        return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def task_title(name: str, score: Mapping[str, Any]) -> str:
    """What a task's row or axis label says: its name, and the metric where the task has more than one."""
    title = TITLES.get(name, name)
    metric = score.get("metric")
    return f"{title} ({metric})" if metric else title


def shown(score: float, digits: int | None = None) -> str:
    """A score as tables show it: with one decimal, or with so many digits that count."""
    return f"{score:.1f}" if digits is None else f"{score:.{digits}g}"


def recovered(dense: float, pruned: float, repaired: float) -> float | None:
    """The share of what pruning lost that repair brought back: (repaired − pruned) / (dense − pruned).

    1 means all of it; None when pruning lost nothing, so that there is nothing to recover.
    """
    lost = dense - pruned
    return (repaired - pruned) / lost if lost > 0 else None


def comparison_table(results: Mapping[str, Result], title: str = "") -> Table:
    """One column a model, one row a task, then the average, the sparsity of every tower, and the seconds.

    `results` maps a column title to a result; with the three of a whole run (`dense`, `pruned`, `repaired`)
    a last column says what share of the loss repair recovered.
    """
    names = list(results)
    whole = {"dense", "pruned", "repaired"} <= set(names)
    rows: list[tuple[str, ...]] = []
    sections = set()

    def add_score(label: str, scores: Sequence[float | None], digits: int | None = None) -> None:
        cells = [NOTHING if score is None else shown(score, digits) for score in scores]
        if whole:
            by_name = dict(zip(names, scores, strict=True))
            three = [by_name[name] for name in ("dense", "pruned", "repaired")]
            known = [score for score in three if score is not None]
            share = recovered(*known) if len(known) == 3 else None
            cells.append(NOTHING if share is None else f"{share:.0%}")
        rows.append((label, *cells))

    for task, label in _tasks(results).items():
        digits = next(
            (each["tasks"][task].get("digits") for each in results.values() if task in each["tasks"]), None
        )
        add_score(label, [_score(result, task) for result in results.values()], digits)
    sections.add(len(rows) - 1)
    averages = [result.get("average") for result in results.values()]
    if any(average is not None for average in averages):
        add_score("average", averages)
    sections.add(len(rows) - 1)
    blank = (NOTHING,) if whole else ()
    for tower in _towers(results):
        shares = [result.get("sparsity", {}).get(tower) for result in results.values()]
        cells = (NOTHING if share is None else f"{share:.1%}" for share in shares)
        rows.append((f"zeros, {tower}", *cells, *blank))
    sections.add(len(rows) - 1)
    seconds = [result.get("seconds") for result in results.values()]
    if any(value is not None for value in seconds):
        cells = (NOTHING if value is None else f"{value:.0f}" for value in seconds)
        rows.append(("seconds to make", *cells, *blank))
    columns = ("", *names, *(("recovered",) if whole else ()))
    return Table(title, columns, tuple(rows), frozenset(sections))


def _tasks(results: Mapping[str, Result]) -> dict[str, str]:
    """Every task any of the results has, in order of appearance, with its label."""
    labels: dict[str, str] = {}
    for result in results.values():
        for name, score in result["tasks"].items():
            labels.setdefault(name, task_title(name, score))
    return labels


def _towers(results: Mapping[str, Result]) -> list[str]:
    return list(dict.fromkeys(tower for result in results.values() for tower in result.get("sparsity", {})))


def _score(result: Result, task: str) -> float | None:
    return result["tasks"].get(task, {}).get("score")
