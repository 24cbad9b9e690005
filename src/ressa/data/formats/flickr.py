"""Flickr30k without splits: `results_20130124.token` (tabs) or Kaggle's `results.csv` (bars), a line a caption.

They hold the pictures of all splits; Karpathy's `dataset_flickr30k.json` says which is which.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ressa.data.faults import collecting
from ressa.data.formats.karpathy import FLICKR
from ressa.data.formats.part import Part, Reading
from ressa.data.formats.sniffing import beginning
from ressa.data.sample import CaptionedImage
from ressa.data.tree import Tree
from ressa.data.values import text
from ressa.errors import UsageError

# Kaggle's line 19,999 lacks its second bar.
_LINE = re.compile(r"(?P<name>[^\t|]+?)(?:#\d+\t|\s*\|\s*\d+(?:\s*\||\s{2,}))(?P<caption>.*)")


def find(tree: Tree) -> Iterator[Part]:
    for file in tree.files(".token", ".csv"):
        if (file.suffix == ".token" and re.match(r"\d+\.jpg#\d\t", beginning(file))) or (
            file.name == "results.csv" and beginning(file).startswith("image_name|")
        ):
            images = tree.pictures(file, *FLICKR)
            yield Part("flickr30k", "all", "Flickr30k", (file,), _read, images, "flickr30k-images")


def _read(reading: Reading, part: Part) -> Sequence[CaptionedImage]:
    (file,) = part.files
    folder = part.pictures(reading)
    said: dict[str, list[str]] = {}
    found = []
    with collecting(reading.faults) as collected:
        for number, line in enumerate(_lines(file), 1):
            if (number == 1 and line.startswith("image_name|")) or not line.strip():
                continue
            with collected.at(file, "line", number):
                if (match := _LINE.fullmatch(line)) is None:
                    raise UsageError("it is not an image's name, a number and a caption")
                said.setdefault(match["name"].strip(), []).append(
                    text(match["caption"], "the caption").strip()
                )
        for name, captions in said.items():
            with collected.at(file, name):
                image = folder.named(name)
                found.append(CaptionedImage(image, reading.caption, None, image.stem, tuple(captions)))
        return collected.some(found, "captions", file)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except (UnicodeDecodeError, OSError) as error:
        raise UsageError(f"{file} cannot be read ({error}): download it again.") from None
