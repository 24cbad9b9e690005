"""What lies in a data folder, by names alone: its annotation files, and the folders that hold pictures."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ressa.errors import UsageError

ANNOTATIONS = (".json", ".jsonl", ".tsv", ".csv", ".tar", ".token", ".parquet", ".arrow")
PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
DEEPEST = 6  # folders below each other, as in images/coco/train2014
_KNOWN = re.compile(
    r"(train|val|test|unlabeled)(\d{4}|_images)?|VG_100K(_2)?|validation|training|flickr30k.images"
)
WIDEST = 2000  # folders in one: ScienceQA's pictures have a folder each


@dataclass(frozen=True)
class Branch:
    """A folder: the names of its files that may be annotations, and whether it holds pictures and texts."""

    path: Path
    files: tuple[str, ...] = ()
    pictures: bool = False
    texts: bool = False


class Tree:
    """The folders in and below `path`.

    follow_links: look into folders that are links out of it; those within it are seen where they are.
    """

    def __init__(self, path: str | Path, follow_links: bool = False) -> None:
        self.path = Path(path)
        self.follow_links = follow_links

    @cached_property
    def branches(self) -> list[Branch]:
        """All folders, those nearest to the top first."""
        level, found, seen = [self.path], [], {os.path.realpath(self.path)}
        for _ in range(DEEPEST):
            below = []
            for path in level:
                branch, folders = _look(path)
                found.append(branch)
                for folder in folders if len(folders) <= WIDEST else []:
                    real = os.path.realpath(folder)
                    inside = Path(real).is_relative_to(os.path.realpath(self.path))
                    if real not in seen and (inside or self.follow_links):
                        seen.add(real)
                        below.append(folder)
                    elif not inside:
                        found.append(Branch(folder, pictures=True))  # what it holds is told when it is used
            level = below
        return found

    def files(self, *endings: str) -> Iterator[Path]:
        """Files whose names end so, those nearest to the top first."""
        for branch in self.branches:
            yield from (branch.path / name for name in branch.files if name.endswith(endings))

    def pictures(self, beside: Path, *groups: tuple[str, ...]) -> tuple[Path, ...]:
        """The folders of pictures that an annotation file `beside` them speaks of.

        groups: names of folders; the first group counts of which there is any. Of several folders with one name the one
        counts that lies nearest to the file. Where there are none, all whose names are no dataset's count.
        """
        for names in groups:
            found = []
            for name in names:
                alike = [path for path in self.with_pictures if _ends(path, self.path, name)]
                if alike:
                    found.append(max(alike, key=lambda path: _nearness(path, beside)))
            if found:
                return tuple(dict.fromkeys(found))
        return tuple(path for path in self.with_pictures if not _KNOWN.fullmatch(path.name))

    def named(self, name: str, beside: Path) -> tuple[Path, ...]:
        """The folder of this name nearest to a file, whatever it holds; none where there is none."""
        alike = [branch.path for branch in self.branches if _ends(branch.path, self.path, name)]
        return (max(alike, key=lambda path: _nearness(path, beside)),) if alike else ()

    @cached_property
    def with_pictures(self) -> list[Path]:
        return [branch.path for branch in self.branches if branch.pictures]


def _look(path: Path) -> tuple[Branch, list[Path]]:
    files, folders = [], []
    pictures = texts = False
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                suffix = os.path.splitext(entry.name)[1].lower()
                if suffix in PICTURES:
                    pictures = True
                elif suffix in ANNOTATIONS:
                    files.append(entry.name)
                elif suffix == ".txt":
                    texts = True
                elif (
                    suffix == ""
                    and not pictures
                    and entry.name.replace("_", "").isdecimal()
                    and entry.is_file()
                ):
                    pictures = True  # CC3M's script saves pictures without a suffix
                elif not entry.name.startswith(".") and entry.is_dir():
                    folders.append(path / entry.name)
    except PermissionError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): check its rights.") from None
    except OSError:
        pass
    return Branch(path, tuple(sorted(files)), pictures, texts), sorted(folders)


def _ends(path: Path, root: Path, name: str) -> bool:
    """Whether a folder's path ends in this name, which may be of several parts."""
    wanted = name.split("/")
    return list(path.relative_to(root).parts[-len(wanted) :]) == wanted


def _nearness(path: Path, beside: Path) -> tuple[int, int]:
    """How near: parts in common, then how few others."""
    common = os.path.commonpath([path, beside.parent])
    return len(Path(common).parts), -len(path.parts)


SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testdev": "testdev",
    "calibration": "calibration",
}


def split_of(path: Path, root: Path) -> str:
    """The split that a file or folder is of, by its name or else by those of the folders above; `train` for none."""
    for part in reversed(path.relative_to(root).parts):
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in SPLITS:
                return SPLITS[word]
    return "train"
