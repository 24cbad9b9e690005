"""What is in a data folder and what is wrong with it: `ressa data check`."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ressa.data.checking import stored
from ressa.data.faults import Fault, Faults
from ressa.data.folder import CALIBRATED, SCORED, TRAINED, DatasetFolder
from ressa.data.formats.part import Part
from ressa.data.likeness import How, Look, alike, look_at
from ressa.data.sample import StoredPicture
from ressa.errors import UsageError
from ressa.progress import bar


@dataclass
class PartReport:
    """One split of one task: how many samples and pictures it has, and what of its entries cannot be used."""

    part: Part
    samples: int = 0
    pictures: list[StoredPicture] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    unreadable: int = 0

    @property
    def missing(self) -> int:
        """Entries whose picture is not there."""
        return sum(
            "does not exist" in fault.problem or "has no image for" in fault.problem for fault in self.faults
        )

    @property
    def bad(self) -> int:
        """All other entries that cannot be used."""
        return len(self.faults) - self.missing - self.unreadable


@dataclass(frozen=True)
class Leak:
    """A picture that is scored on and learned from. scored, learned: task, split and picture of each."""

    scored: tuple[str, str, str]
    learned: tuple[str, str, str]
    how: How


@dataclass
class Audit:
    """Everything that was found in a folder. leaks: between splits of which at least one is taken where none is named;
    by_name: how many pictures are in two others. compared: how many pictures were opened and compared by content."""

    path: Path
    parts: list[PartReport]
    leaks: list[Leak] = field(default_factory=list)
    by_name: int = 0
    compared: int = 0

    @cached_property
    def wrong(self) -> str:
        """One sentence on what is wrong; empty where nothing is."""
        entries = len({fault for part in self.parts for fault in part.faults})
        said = []
        if not self.parts:
            return f"{self.path} holds no dataset that is recognised: docs/data.md shows which are, and how they lie."
        if entries:
            said.append(f"{entries:,} {'entry' if entries == 1 else 'entries'} cannot be used")
        if leaked := len({leak.scored for leak in self.leaks}):
            said.append(
                f"{leaked:,} {'picture is' if leaked == 1 else 'pictures are'} both scored on and learned from"
            )
        return f"Of {self.path}, {' and '.join(said)}." if said else ""


def audit(
    folder: str | Path, *, pictures: bool = True, follow_links: bool = False, splits: Sequence[str] = ()
) -> Audit:
    """Read every part of a data folder, open its pictures, and compare those that are scored on with the others.

    pictures: open them; otherwise only their files are looked for. splits: only these. Raises UsageError for a folder
    that is not there.
    """
    data = DatasetFolder(folder, follow_links=follow_links)
    parts = [
        _read(data, part)
        for part in _distinct(data.parts)
        if not splits or {part.split, part.own} & {*splits}
    ]
    found = Audit(data.path, parts)
    if pictures and parts:
        looks = _look(parts)
        found.leaks, found.by_name = _leaks(data, parts, looks)
        found.compared = len(looks)
    return found


def _distinct(parts: Iterable[Part]) -> list[Part]:
    """Each sample once: conversations file by file, and no pictures for training that are for testing, too."""
    there = list(parts)
    apart = [part for part in there if part.task != "instruct" or len(part.files) == 1]
    tested = {(part.task, part.images) for part in apart if part.split == "test"}
    return [part for part in apart if part.split != "all" or (part.task, part.images) not in tested]


def _read(data: DatasetFolder, part: Part) -> PartReport:
    faults = Faults("skip", data.path)
    report = PartReport(part)
    reading = DatasetFolder(data.path, follow_links=data.follow_links, faults=faults).reading
    try:
        samples = part.samples(reading)
    except UsageError as error:
        faults.add((*part.files, *part.images)[0], "", error.sentence)
        samples = []
    report.faults, report.samples = faults.found, len(samples)
    report.pictures = list(dict.fromkeys(picture for sample in samples for picture in stored(sample)))
    return report


def _look(parts: Sequence[PartReport]) -> dict[StoredPicture, Look]:
    """What each picture looks like; those that cannot be read become faults of their parts."""
    every = sorted({picture for part in parts for picture in part.pictures}, key=str)
    looks: dict[StoredPicture, Look] = {}
    problems: dict[StoredPicture, str] = {}
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        with bar("Looking at pictures", len(every)) as progress:
            for picture, seen in zip(every, pool.map(_try(look_at), every), strict=True):
                if isinstance(seen, Look):
                    looks[picture] = seen
                else:
                    problems[picture] = seen
                progress.advance()
    finally:
        pool.shutdown(cancel_futures=True)
    for part in parts:
        bad = [Fault(str(picture), "", problems[picture]) for picture in part.pictures if picture in problems]
        part.faults += bad
        part.unreadable = len(bad)
    return looks


def _try(function: Callable[[StoredPicture], Look]) -> Callable[[StoredPicture], Look | str]:
    def tried(picture: StoredPicture) -> Look | str:
        try:
            return function(picture)
        except UsageError as error:
            return error.sentence
        except OSError as error:
            return f"cannot be read ({error.strerror or error})"

    return tried


def _leaks(
    data: DatasetFolder, parts: Sequence[PartReport], looks: dict[StoredPicture, Look]
) -> tuple[list[Leak], int]:
    """Pictures of splits that are scored on, among those of splits that are not; and in how many of them neither
    split is taken unless it is named (Karpathy's training pictures, in COCO's val2014)."""
    taken = {
        part
        for task in data.tasks()
        for order in (SCORED, TRAINED, CALIBRATED)
        if (part := data.taken(task, order)) is not None
    }

    def known(scored: bool) -> dict[StoredPicture, Part]:
        """Picture → the first part that it is of, those that are taken coming first."""
        found: dict[StoredPicture, Part] = {}
        for report in sorted(parts, key=lambda report: report.part not in taken):
            if (report.part.split in SCORED) == scored:
                for picture in report.pictures:
                    if picture in looks:
                        found.setdefault(picture, report.part)
        return found

    scored, learned = known(True), known(False)
    asked, others = list(scored), list(learned)
    pairs = alike([looks[picture] for picture in asked], [looks[picture] for picture in others])
    leaks, by_name = [], set()
    for one, other, how in pairs:
        ours, theirs = scored[asked[one]], learned[others[other]]
        if ours in taken or theirs in taken:
            names = [(part.task, part.own or part.split) for part in (ours, theirs)]
            leaks.append(Leak((*names[0], str(asked[one])), (*names[1], str(others[other])), how))
        else:
            by_name.add(asked[one])
    return leaks, len(by_name)


def as_data(found: Audit) -> dict[str, Any]:
    """An audit as JSON-able data."""
    return {
        "path": str(found.path),
        "parts": [
            {
                "task": report.part.task,
                "split": report.part.split,
                "name": report.part.name,
                "files": [str(file) for file in report.part.files],
                "images": [str(folder) for folder in report.part.images],
                "samples": report.samples,
                "pictures": len(report.pictures),
                "missing": report.missing,
                "unreadable": report.unreadable,
                "bad": report.bad,
                "faults": [vars(fault) for fault in report.faults[:1000]],
            }
            for report in found.parts
        ],
        "leaks": [
            {"scored": leak.scored, "learned": leak.learned, "how": leak.how} for leak in found.leaks[:1000]
        ],
        "leaks_by_name": found.by_name,
        "compared": found.compared,
        "wrong": found.wrong,
    }
