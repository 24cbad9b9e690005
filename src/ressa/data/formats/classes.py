"""Pictures in a folder for each class, as torchvision's and 🤗 datasets' `ImageFolder` have them.

<split>/<class>/                 the image files of a class; or images/<split>/<class>/, or classes/<split>/<class>/
<class>/                         where there are no splits: all of it is for training, and for testing

Where there are annotation files, these say what pictures show, and only what lies beneath `classes` is taken so.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ressa.data.formats.part import Part, Reading
from ressa.data.formats.records import class_name
from ressa.data.sample import LabelledImage
from ressa.data.tree import PICTURES, SPLITS, Tree

FOLDER = "classes"
_SPLIT = re.compile(
    rf"({'|'.join(SPLITS)}|unlabeled)(\d{{4}}|_images)?", re.IGNORECASE
)  # a split's, COCO's too


def find(tree: Tree) -> Iterator[Part]:
    annotated = any(branch.files for branch in tree.branches)
    for top in (tree.path / FOLDER, *(() if annotated else (tree.path / "images", tree.path))):
        splits = [path for path in _folders(top) if path.name.lower() in SPLITS]
        for home in splits:
            if _has_classes(home):
                yield _part(home, SPLITS[home.name.lower()])
        if splits or not _has_classes(top):
            continue
        yield _part(top, "all")
        yield _part(top, "test")


def _part(home: Path, split: str) -> Part:
    return Part("zeroshot", split, "a folder for each class", (), _read, (home,))


def _read(reading: Reading, part: Part) -> Sequence[LabelledImage]:
    (home,) = part.images
    return [
        LabelledImage(
            reading.inside(path),
            reading.caption,
            None,
            f"{folder.name}/{path.name}",
            label=class_name(folder.name),
        )
        for folder in _folders(home)
        for path in pictures_in(reading.inside(folder))
    ]


def _has_classes(home: Path) -> bool:
    """Whether a folder has two folders or more, and pictures in each."""
    folders = _folders(home)
    if any(_SPLIT.fullmatch(folder.name) for folder in folders):
        return False
    return len(folders) > 1 and all(next(iter(pictures_in(folder)), None) for folder in folders)


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return sorted(each for each in path.iterdir() if each.is_dir() and not each.name.startswith("."))


def pictures_in(folder: Path) -> list[Path]:
    """The files of a folder that are pictures by their suffix."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if os.path.splitext(entry.name)[1].lower() in PICTURES]
    return [folder / name for name in sorted(names)]
