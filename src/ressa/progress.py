"""Progress with an estimate, for anything that takes more than a moment: a bar on a terminal, lines elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ressa.processes import is_first

T = TypeVar("T")
console = Console(stderr=True)

EVERY = 10.0  # seconds between two lines where there is no terminal


def say(sentence: str) -> None:
    """A line on standard error about how a run goes."""
    console.print(sentence, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def bar(description: str, total: int | None) -> Iterator["Bar"]:
    """Progress on standard error: a live bar on a terminal; elsewhere a line every ten seconds, and one at the end."""
    if not is_first():
        yield Silent()
        return
    if not console.is_terminal:
        lines = Lines(description, total)
        yield lines
        lines.done()
        return
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )
    with progress:
        yield LiveBar(progress, description, total)


class Bar(Protocol):
    """One piece of work and how far it is."""

    def advance(self, steps: int = 1, description: str | None = None) -> None:
        """So many steps more are done. description: what is being done now, if that changed."""


class Silent:
    """What the processes show that are not the first of several."""

    def advance(self, steps: int = 1, description: str | None = None) -> None:
        """Nothing."""


class LiveBar:
    """One task of rich's display."""

    def __init__(self, progress: Progress, description: str, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task(description, total=total)

    def advance(self, steps: int = 1, description: str | None = None) -> None:
        self._progress.update(self._task, advance=steps, description=description)


class Lines:
    """What a log file shows: `Pruning: 12/48, 25 %, 0:40 gone, 2:00 left`."""

    def __init__(self, description: str, total: int | None) -> None:
        self._name = self._description = description
        self._total = total
        self._done = 0
        self._began = self._said = time.monotonic()
        self._first: tuple[float, int] | None = None  # when the first steps were done, and how many

    def advance(self, steps: int = 1, description: str | None = None) -> None:
        self._done += steps
        self._description = description or self._description
        now = time.monotonic()
        if self._first is None:  # a run that goes on starts with all that was done before
            self._first = (now, self._done)
        if now - self._said >= EVERY and self._done != self._total:
            self._said = now
            self._say(now)

    def done(self) -> None:
        """The work has come to its end."""
        print(f"{self._name}: done", file=sys.stderr, flush=True)

    def _say(self, now: float) -> None:
        said = [
            f"{self._done}/{self._total}, {self._done / self._total:.0%}" if self._total else f"{self._done}"
        ]
        said.append(f"{_clock(now - self._began)} gone")
        since, before = self._first or (now, self._done)
        if self._total and self._done > before:
            left = (now - since) / (self._done - before) * (self._total - self._done)
            said.append(f"{_clock(left)} left")
        print(f"{self._description}: {', '.join(said)}", file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    """1:02 or 1:00:02."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate with progress."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with bar(description, total) as progress:
        for item in items:
            yield item
            progress.advance()
