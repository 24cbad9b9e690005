"""MMBench: a table of {index, question, hint, A, B, C, D, answer, category, l2-category, image in base64}.

`mmbench_dev_20230712.tsv`, `MMBench_DEV_EN.tsv` and the like; a picture in the table may be the index of an earlier
row's.
"""

import base64
import binascii
import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ressa.data.formats.part import Part, Reading, read_each
from ressa.data.jsonfile import expecting
from ressa.data.picture import PackedPicture
from ressa.data.sample import Question
from ressa.data.tree import Tree
from ressa.data.values import field, text
from ressa.errors import UsageError

_FILE = re.compile(r"mmbench_(?:\w+_)?(dev|train)\w*\.tsv", re.IGNORECASE)
LARGEST_CELL = 2**28


def find(tree: Tree) -> Iterator[Part]:
    for file in tree.files(".tsv"):
        if found := _FILE.fullmatch(file.name):
            split = "val" if found[1].lower() == "dev" else "train"
            yield Part("mmbench", split, "MMBench", (file,), _read, own=file.stem)


def _read(reading: Reading, part: Part) -> Sequence[Question]:
    (file,) = part.files
    pictures: dict[str, PackedPicture] = {}

    def question(row: dict[str, Any]) -> Question | None:
        key = text(field(row, "index"), "the index")
        letters = [letter for letter in "ABCDEFGH" if (row.get(letter) or "").strip()]
        choices = tuple(text(row[letter], f"choice {letter}") for letter in letters)
        said = (row.get("answer") or "").strip()
        pictures[key] = _picture(file, key, text_of_any_length(row, "image"), pictures)
        if not said:
            return None
        if said not in letters:
            raise UsageError(f"the answer is {said[:40]!r}, not one of {', '.join(letters) or 'no choices'}")
        words = text(field(row, "question"), "the question")
        correct = letters.index(said)
        kinds = (row.get(name) or "" for name in ("l2-category", "category"))
        return Question(
            image=pictures[key],
            prompt=reading.ask(words),
            target=choices[correct],
            id=key,
            question=words,
            answers=(choices[correct],),
            kinds=tuple(filter(None, kinds)),
            choices=choices,
            correct=correct,
            context=text(row.get("hint") or "", "the hint", may_be_empty=True),
        )

    return read_each(reading, part, file, rows(file), question, where="row")


def text_of_any_length(row: dict[str, Any], name: str) -> str:
    value = field(row, name)
    if not isinstance(value, str) or not value:
        raise UsageError(f"the {name} is missing")
    return value


def _picture(file: Path, key: str, cell: str, earlier: dict[str, PackedPicture]) -> PackedPicture:
    if len(cell) < 20 and cell in earlier:
        return earlier[cell]
    try:
        content = base64.b64decode(cell, validate=True)
    except (binascii.Error, ValueError):
        raise UsageError("the image is not in base64") from None
    return PackedPicture(file, f"row {key}", content=content)


def rows(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a table with tabs and names in its first line. Raises UsageError for a file that is no such table."""
    limit = csv.field_size_limit(LARGEST_CELL)
    try:
        with expecting("a table", file), file.open(encoding="utf-8-sig", newline="") as lines:
            yield from csv.DictReader(lines, delimiter="\t")
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise UsageError(f"{file} is no table with tabs in UTF-8 ({error}): download it again.") from None
    finally:
        csv.field_size_limit(limit)
