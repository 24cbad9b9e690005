"""CC3M as Google gives it: `Train_GCC-training.tsv`, lines of caption and address, and pictures that a script fetched.

DownloadConceptualCaptions saves them as `training/<crc32 of the address>` or `training/<row>_<crc32>`, LAVIS's copy
likewise; img2dataset writes captions beside the pictures. Most addresses are dead by now, so rows without a picture
are left out and counted.
"""

import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from ressa.data.faults import collecting
from ressa.data.formats.part import Part, Reading
from ressa.data.sample import CaptionedImage
from ressa.data.tree import Tree
from ressa.data.values import text
from ressa.errors import UsageError

_FILE = re.compile(r"(Train|Validation)_?GCC-.*\.tsv")


def find(tree: Tree) -> Iterator[Part]:
    for file in tree.files(".tsv"):
        if found := _FILE.fullmatch(file.name):
            split, names = (
                ("train", ("training", "train")) if found[1] == "Train" else ("val", ("validation", "val"))
            )
            images = tree.pictures(file, names)
            if all(
                path.name.isdecimal() for path in images
            ):  # img2dataset's, with the captions beside the pictures
                continue
            yield Part("caption", split, "CC3M", (file,), _read, images, names[0], f"cc3m_{split}")


def _read(reading: Reading, part: Part) -> Sequence[CaptionedImage]:
    (file,) = part.files
    folder = part.pictures(reading)
    found, without = [], 0
    with collecting(reading.faults) as collected:
        for number, line in enumerate(_lines(file)):
            with collected.at(file, "line", number + 1):
                caption, tab, address = line.rstrip("\r\n").partition("\t")
                if not tab:
                    raise UsageError("it has no tab between a caption and an address")
                crc = zlib.crc32(address.strip().encode())
                key = next((key for key in (str(crc), f"{number}_{crc}") if key in folder.stems), None)
                if key is None:
                    without += 1
                else:
                    said = text(caption, "the caption").strip()
                    found.append(CaptionedImage(folder.called(key), reading.caption, None, key, (said,)))
        collected.leave_out(file, without, "rows whose picture was not fetched")
        return collected.some(found, "captions with a picture", file)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except (UnicodeDecodeError, OSError) as error:
        raise UsageError(f"{file} cannot be read ({error}): download it again.") from None
