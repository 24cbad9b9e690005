"""What a model has said so far, kept in a file, so that an evaluation that is cut short goes on where it was."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Kept:
    """The answers of each task by the sample's place; one line of the file a batch, so that a batch is whole or absent.

    path: the file; None keeps nothing beyond this object. Whoever names it sees to it that only one evaluation of
    one model and one set of samples ever writes it.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._found: dict[str, dict[int, Any]] = {}
        if path is not None and path.is_file():
            self._read(path)

    def __len__(self) -> int:
        return sum(map(len, self._found.values()))

    def of(self, task: str) -> "Answers":
        return Answers(self, task, self._found.setdefault(task, {}))

    def write(self, task: str, values: Mapping[int, Any]) -> None:
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([task, {str(place): value for place, value in values.items()}]) + "\n")

    def _read(self, path: Path) -> None:
        """Take the whole lines; a last one that was cut short, or whatever follows a damaged one, is cut off."""
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
        with path.open("rb+") as file:
            file.truncate(whole)


class Answers:
    """One task's part. `done`: place of a sample → what was said to it."""

    def __init__(self, kept: Kept, task: str, done: dict[int, Any]) -> None:
        self._kept, self._task, self.done = kept, task, done

    def keep(self, values: Mapping[int, Any]) -> None:
        self.done.update(values)
        self._kept.write(self._task, values)
