"""Lists of records in JSON or JSON lines, and `metadata.jsonl` or `metadata.csv` beside the pictures (imagefolder).

LLaVA's and ShareGPT4V's conversations come in such files, and LAVIS's annotations.
"""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ressa.data.formats.part import Part, Reading, read_each
from ressa.data.formats.records import kind_of, named, record, task_of
from ressa.data.formats.sniffing import beginning
from ressa.data.jsonfile import entries, read_lines
from ressa.data.sample import Sample
from ressa.data.tree import Tree, split_of
from ressa.errors import UsageError

METADATA = ("metadata.jsonl", "metadata.csv")


def find(tree: Tree) -> Iterator[Part]:
    """One part for each file, and one for those of a task and split together, which comes first."""
    parts: list[Part] = []
    for file in tree.files(".json", ".jsonl", ".csv"):
        metadata = file.name in METADATA
        start = beginning(file)
        if file.suffix == ".csv":
            start = "" if not metadata else json.dumps(_header(start))
        elif file.suffix == ".json" and not re.match(r"\s*\[\s*\{", start):
            continue
        if (kind := kind_of(start)) is None:
            continue
        homes = (file.parent,) if metadata else tuple(dict.fromkeys((file.parent, *_homes(tree))))
        task, split = task_of(kind, file.stem), split_of(file, tree.path)
        parts.append(Part(task, split, file.name, (file,), _read, homes, own=file.stem))
    together: dict[tuple[Any, ...], list[Part]] = {}
    for part in parts:
        if part.task == "instruct":
            together.setdefault((part.task, part.split), []).append(part)
        elif part.name not in METADATA:  # pictures of one name in two folders are two
            together.setdefault((part.task, part.split, part.images), []).append(part)
    for some in together.values():
        if len(some) > 1:
            files = tuple(file for part in some for file in part.files)
            what = {"captions": "captions", "conversations": "conversations"}.get(some[0].kind, "questions")
            yield replace(some[0], name=f"{len(files)} files of {what}", files=files, own="")
    yield from parts


def _homes(tree: Tree) -> list[Path]:
    """Folders that a picture's path may begin in."""
    return [branch.path for branch in tree.branches]


def _header(start: str) -> list[str]:
    return next(csv.reader(start.splitlines()[:1]), [])


def _read(reading: Reading, part: Part) -> Sequence[Sample]:
    folder = part.pictures(reading)
    found: list[Sample] = []
    seen: set[Any] = set()
    for file in part.files:
        rows = _rows(file)
        numbered = iter(range(len(rows)))

        def make(
            entry: dict[str, Any], numbers: Iterator[int] = numbered, file: Path = file
        ) -> Sample | None:
            return record(reading, entry, folder.named, named(file, next(numbers)))

        for sample in read_each(
            reading, part, file, rows, make, left_out="entries without an answer or a caption"
        ):
            key = (sample.id, sample.turns) if len(part.files) > 1 else None
            if key is None or key not in seen:  # files may be parts of each other
                seen.add(key)
                found.append(sample)
    return found


def _rows(file: Path) -> list[Any]:
    if file.suffix == ".jsonl":
        return read_lines(file)
    if file.suffix == ".json":
        return entries(file, "records")
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            return list(csv.DictReader(lines))
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise UsageError(f"{file} is no table with commas in UTF-8 ({error}): write it again.") from None
