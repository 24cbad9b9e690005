"""One command line on spoiled inputs, and all that has to hold whatever it is given."""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ressa.cli import main

MOST = 1200  # characters of a sentence


@dataclass(frozen=True)
class Inputs:
    """Folders that no test writes to: a LLaVA with its processor, pruned by magnitude, and a dataset."""

    model: Path
    pruned: Path
    data: Path


QUICK = ("--method", "magnitude", "--samples", "4", "--batch-size", "4")


def snapshot(*roots: Path) -> dict[str, tuple[Any, ...]]:
    """Every file, folder and link beneath: what it is, how large, and when it was last written."""
    found = {}
    for root in roots:
        for place, folders, files in os.walk(root):
            for name in (*folders, *files):
                path = os.path.join(place, name)
                about = os.lstat(path)
                size = 0 if name in folders else (about.st_size, about.st_mtime_ns)
                found[path] = (about.st_mode, size)
    return found


@dataclass
class Net:
    """Runs command lines on spoiled inputs and notes what is not as it should be."""

    inputs: Inputs
    folder: Path
    capsys: pytest.CaptureFixture
    problems: list[str] = field(default_factory=list)
    tried: int = 0

    @property
    def out(self) -> Path:
        """Where commands write."""
        return self.folder / "out"

    def data(self) -> Path:
        """A copy of the dataset, to spoil."""
        return self._copy(self.inputs.data, "data")

    def model(self) -> Path:
        """A copy of the model, to spoil."""
        return self._copy(self.inputs.model, "model")

    def pruned(self) -> Path:
        """A copy of the pruned folder, to spoil."""
        return self._copy(self.inputs.pruned, "pruned")

    def _copy(self, source: Path, name: str) -> Path:
        self.clear()
        return shutil.copytree(source, self.folder / name)

    def clear(self) -> None:
        """Take away what the last try left."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()

    def check(self, what: object, *arguments: object, may: Iterable[int] = (2,), says: str = "") -> int:
        """Run one command line; `may` are the exit codes it may have, `says` words of its sentence. Returns the code.

        Whatever the code: no traceback, the inputs as they were. Other than 0: one sentence, and nothing written.
        """
        self.tried += 1
        before = snapshot(self.folder, *vars(self.inputs).values())
        self.capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        said = self.capsys.readouterr()
        after = snapshot(self.folder, *vars(self.inputs).values())
        lines = [line for line in said.err.splitlines() if line.startswith("ressa: ")]

        def note(problem: str) -> None:
            command = " ".join(str(argument)[:60] for argument in arguments)
            self.problems.append(
                f"{str(what)[:100]}: {problem}\n    ressa {command}\n    {said.err.strip()[-700:]}"
            )

        if "Traceback" in said.err + said.out:
            note("a traceback")
        elif status not in may:
            note(f"exit code {status}, not {' or '.join(map(str, may))}")
        elif status and (len(lines) != 1 or not 10 < len(lines[0]) < MOST or lines[0][-1] not in ".?"):
            note(f"{len(lines)} sentences")
        elif status and says not in lines[0]:
            note(f"a sentence without {says!r}")
        changed = sorted(path for path, about in before.items() if after.get(path) != about)
        appeared = sorted(path for path in after if path not in before)
        # A result; or, of a run that failed, the work that it goes on from once what ailed it is mended.
        mine = {0: str(self.out), 1: str(self.folder / ".out.partial")}.get(status)
        appeared = [path for path in appeared if mine is None or not path.startswith(mine)]
        if changed or appeared:
            note(f"changed {changed[:3]}, left {appeared[:3]}")
        for left in (self.out, self.folder / ".out.partial"):
            if left.is_dir() and not left.is_symlink() and str(left) not in before:
                shutil.rmtree(left)
        return status
