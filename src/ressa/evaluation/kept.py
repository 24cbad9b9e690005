"""What a model has said so far, kept in a file, so that an evaluation that is cut short goes on where it was."""

import json
from collections.abc import Mapping, Sequence
from glob import escape
from pathlib import Path
from typing import Any

from ressa.processes import merged, place


class Kept:
    """The answers of each task by the sample's place; one line of the file a batch, so that a batch is whole or absent.

    path: the file; None keeps nothing beyond this object. Whoever names it sees to it that only one evaluation of
    one model and one set of samples ever writes it. Of several processes each writes a file of its own beside it, and
    reads them all.
    """

    def __init__(self, path: Path | None = None) -> None:
        rank, _ = place()
        self._path = path.with_stem(f"{path.stem}.{rank}") if path is not None and rank else path
        self._found: dict[str, dict[int, Any]] = {}
        if path is not None:
            others = path.parent.glob(f"{escape(path.stem)}.[0-9]*{path.suffix}")
            for each in filter(Path.is_file, [path, *sorted(others)]):
                self._read(each, own=each == self._path)

    def __len__(self) -> int:
        return sum(map(len, self._found.values()))

    def of(self, task: str) -> "Answers":
        return Answers(self, task, self._found.setdefault(task, {}))

    def write(self, task: str, values: Mapping[int, Any]) -> None:
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([task, {str(place): value for place, value in values.items()}]) + "\n")

    def _read(self, path: Path, own: bool) -> None:
        """Take the whole lines. In the own file a last one that was cut short, or whatever follows a damaged one, is
        cut off."""
        whole = 0
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                task, values = json.loads(line)
                places = {int(place): value for place, value in values.items()}
            except (ValueError, AttributeError, TypeError):
                break
            if not line.endswith(b"\n"):
                break
            self._found.setdefault(str(task), {}).update(places)
            whole += len(line)
        if own:
            with path.open("rb+") as file:
                file.truncate(whole)


class Answers:
    """One task's part. `done`: place of a sample → what was said to it."""

    def __init__(self, kept: Kept, task: str, done: dict[int, Any]) -> None:
        self._kept, self._task, self.done = kept, task, done

    def keep(self, values: Mapping[int, Any]) -> None:
        self.done.update(values)
        self._kept.write(self._task, values)

    def share(self, batches: Sequence[Sequence[int]]) -> list[Sequence[int]]:
        """The batches of places that this process has yet to ask. They are the same as one process would ask, and
        so are their answers."""
        rank, processes = place()
        return [batch for batch in batches[rank::processes] if not all(each in self.done for each in batch)]

    def gather(self) -> None:
        """What all processes were told, in each of them."""
        self.done.update(merged(self.done))
