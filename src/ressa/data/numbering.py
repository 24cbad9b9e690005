"""Which file each picture number of a data set means.

Every data set numbers its pictures in its own way, and two in one folder use the same numbers for other pictures.
So a look-up knows which data set asks, and one way serves all of its pictures:

1. the data set's own naming, if it fits any: COCO's files end in twelve digits (VQAv2, OK-VQA), Visual Genome's
   are called by their number (GQA);
2. else the list of numbers and names in the split's captions file, or another naming, if it fits most.

Where the own naming fits some and another way fits all, and they disagree on a picture, nobody can tell which
is meant: that is refused.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from ressa.data.image_folder import ImageFolder
from ressa.data.values import field, fields, identity
from ressa.errors import UsageError

Way = Callable[[str], list[str]]  # a picture's id → the files that it may be; none where it does not fit


class Numbering:
    """Finds the pictures of one data set by number.

    Args:
        own: whose numbers they are.
        folder: where the pictures are.
        ids: all ids that will be asked for, as text.
        names: id → file name, from the split's captions file.

    Raises UsageError where two ways fit and disagree.
    """

    def __init__(
        self,
        own: Literal["COCO", "Visual Genome"],
        folder: ImageFolder,
        ids: Collection[str],
        names: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = folder
        self._names = names or {}
        self._found: dict[str, Path] = {}  # a picture has many questions
        coco: list[Way] = [self._coco, self._listed, self._stem, self._last]
        genome: list[Way] = [self._stem, self._listed]
        self._find = self._choose(set(ids), coco if own == "COCO" else genome)

    def find(self, key: str) -> Path:
        """The file of this id. Raises UsageError when there is none, or more than one."""
        if key in self._found:
            return self._found[key]
        names = self._find(key)
        if not names:
            raise UsageError(f"{self._folder.path} has no image for id {key}, and the annotations name it")
        if len(names) > 1:
            raise UsageError(f"image {key} may be {names[0]} or {names[1]}: keep one of them")
        self._found[key] = self._folder.named(names[0])
        return self._found[key]

    def _choose(self, ids: set[str], ways: list[Way]) -> Way:
        own, *others = ways
        fits = {key for key in ids if own(key)}
        if len(fits) == len(ids):
            return own
        for other in others:
            found = {key for key in ids if other(key)}
            if not fits and 2 * len(found) >= len(ids):
                return other
            if fits and len(found) == len(ids):
                self._agree(own, other, fits)
                return other
        return own

    def _agree(self, own: Way, other: Way, ids: set[str]) -> None:
        for key in sorted(ids):
            first, second = own(key)[0], other(key)[0]
            if PurePosixPath(first).name != PurePosixPath(second).name:
                raise UsageError(
                    f"image {key} in {self._folder.path} may be {first}, by its name, or {second}, by the numbers "
                    "of another data set: give each data set a folder of its own."
                )

    def _coco(self, key: str) -> list[str]:
        return self._folder.coco_numbers.get(_number(key), [])

    def _listed(self, key: str) -> list[str]:
        return [self._names[key]] if key in self._names else []

    def _stem(self, key: str) -> list[str]:
        return self._folder.stems.get(key, [])

    def _last(self, key: str) -> list[str]:
        return self._folder.last_numbers.get(_number(key), [])


def ids_in(entries: Iterable[Any], name: str) -> set[str]:
    """The ids that entries hold in their field `name`; those without a right one are told when they are read."""
    found = set()
    for entry in entries:
        with suppress(UsageError):
            found.add(identity(field(fields(entry), name), name))
    return found


def _number(key: str) -> str:
    """An id without leading zeros, where it is a number."""
    return key.lstrip("0") or "0" if key.isascii() and key.isdecimal() else key
