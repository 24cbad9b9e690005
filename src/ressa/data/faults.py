"""What is wrong in a data set, collected until it can be told as one table."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from ressa.errors import UsageError
from ressa.warned import warn

OnBadSample = Literal["stop", "skip"]
T = TypeVar("T")
SHOWN = 20  # rows of a table


@dataclass(frozen=True)
class Fault:
    """One entry that cannot be used. file: where it is; entry: which of it; problem: a few words."""

    file: str
    entry: str
    problem: str

    def __str__(self) -> str:
        return f"{', '.join(filter(None, (self.file, self.entry)))}: {self.problem}"


class Faults:
    """Collects what a data set's files hold that cannot be used; `settle` stops for it, or says it and goes on.

    on_bad: `stop` (a UsageError that names them) or `skip` (they are left out and counted in a warning).
    source: the data folder.
    """

    def __init__(self, on_bad: OnBadSample = "stop", source: str | Path = "the data") -> None:
        self.on_bad = on_bad
        self.source = source
        self._found: dict[Fault, None] = {}  # in order, each once however many tasks read its file
        self._left_out: dict[str, None] = {}

    def at(self, file: str | Path, entry: str = "", key: Any = None) -> "_Place":
        """A block that one entry is read in; a UsageError in it becomes a fault of that entry.

        entry, key: a list and the place in it, or a field.
        """
        return _Place(self, file, entry, key)

    def add(self, file: str | Path, entry: str, problem: str) -> None:
        self._found[Fault(_line(file, 300), _line(entry, 100), _line(problem, 500))] = None

    def leave_out(self, file: str | Path, count: int, what: str) -> None:
        """Say, when all is read, how many entries were left out though nothing is wrong with them."""
        if count:
            self._left_out[f"{file}: {what}: {count:,}; left out."] = None

    def some(self, found: list[T], what: str, file: str | Path) -> list[T]:
        """`found`, or a UsageError where nothing is left that could be used."""
        if found or (self._found and self.on_bad == "stop"):  # `settle` says why
            return found
        if not self._found:
            raise UsageError(f"{file} has no {what}: give a file that has some.")
        raise UsageError(f"{file} has no {what} that can be used: correct it.", table(list(self._found)))

    @property
    def found(self) -> list[Fault]:
        """What was found so far, in order."""
        return list(self._found)

    def settle(self) -> None:
        """Raises UsageError for what was found, or warns of it; then forgets it."""
        found, left_out = self.found, list(self._left_out)
        self._found, self._left_out = {}, {}
        if not found or self.on_bad == "skip":
            for sentence in left_out:
                warn(sentence)
        if not found:
            return
        if self.on_bad == "skip":
            count = "1 entry" if len(found) == 1 else f"{len(found):,} entries"
            warn(f"{count} of {self.source} cannot be used, and are left out:", table(found))
            return
        if len(found) == 1:
            raise UsageError(f"{found[0]}. Correct it, or leave it out with --on-bad-sample skip.")
        raise UsageError(
            f"{len(found):,} entries of {self.source} cannot be used: correct them, or leave them out with "
            "--on-bad-sample skip.",
            table(found),
        )


@contextmanager
def collecting(faults: Faults | None) -> Iterator[Faults]:
    """The given faults, which somebody else settles; else new ones, settled when the block ends."""
    collected = Faults() if faults is None else faults
    yield collected
    if faults is None:
        collected.settle()


class _Place:
    """The block of `Faults.at`: a class, as a data set has a million entries."""

    def __init__(self, faults: Faults, file: str | Path, entry: str, key: Any) -> None:
        self._faults, self._file, self._entry, self._key = faults, file, entry, key

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if not isinstance(error, UsageError):
            return False
        entry = self._entry if self._key is None else f"{self._entry}[{self._key}]"
        self._faults.add(self._file, entry, error.sentence)
        return True


def _line(value: str | Path, longest: int) -> str:
    """At most so many characters on one line, whatever a file's author wrote."""
    line = " ".join(str(value).encode(errors="replace").decode().split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def table(faults: Sequence[Fault]) -> str:
    """The first faults as lines with aligned columns, and how many more there are.

    Entries of one file with one and the same problem, such as all questions about a missing picture, share a line.
    """
    alike: dict[tuple[str, str], list[Fault]] = {}
    for fault in faults:
        alike.setdefault((fault.file, fault.problem), []).append(fault)
    rows = [
        (file, each[0].entry + (f" and {len(each) - 1:,} more" if len(each) > 1 else ""), problem)
        for (file, problem), each in list(alike.items())[:SHOWN]
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}" if any(widths) else c for a, b, c in rows]
    if len(alike) > SHOWN:
        lines.append(f"… and {sum(map(len, list(alike.values())[SHOWN:])):,} more")
    return "\n".join(lines)
