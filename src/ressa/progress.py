"""Progress bars with an estimate, for anything that takes more than a moment."""

import sys
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")
console = Console(stderr=True)


def say(sentence: str) -> None:
    """A line on standard error about how a run goes."""
    console.print(sentence, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def bar(description: str, total: int | None) -> Iterator["Bar"]:
    """A progress bar on standard error: live on a terminal, one line at the end elsewhere."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with progress:
        yield Bar(progress, description, total)
    if not console.is_terminal:
        print(f"{description}: done", file=sys.stderr, flush=True)


class Bar:
    """One task of a progress display."""

    def __init__(self, progress: Progress, description: str, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task(description, total=total)

    def advance(self, steps: int = 1, description: str | None = None) -> None:
        self._progress.update(self._task, advance=steps, description=description)


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a progress bar."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with bar(description, total) as progress:
        for item in items:
            yield item
            progress.advance()
