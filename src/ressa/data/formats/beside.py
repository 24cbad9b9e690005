"""Pictures with a caption beside each, in a text file of the same name, as img2dataset's `files` output (CC3M)."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from ressa.data.faults import collecting
from ressa.data.formats.part import Part, Reading
from ressa.data.sample import CaptionedImage
from ressa.data.tree import PICTURES, Tree, split_of
from ressa.data.values import LONGEST, text
from ressa.errors import UsageError


def find(tree: Tree) -> Iterator[Part]:
    by_split: dict[str, list[Path]] = {}
    for branch in tree.branches:
        if branch.pictures and branch.texts:
            by_split.setdefault(split_of(branch.path, tree.path), []).append(branch.path)
    for split, folders in by_split.items():
        name = "captions beside pictures"
        yield Part("caption", split, name, tuple(folders), _read, tuple(folders), "of pictures", "beside")


def _read(reading: Reading, part: Part) -> Sequence[CaptionedImage]:
    found, without = [], 0
    with collecting(reading.faults) as collected:
        for place in part.files:
            folder = reading.images(place)
            for path in sorted(path for path in place.iterdir() if path.suffix.lower() in PICTURES):
                words = path.with_suffix(".txt")
                if not words.is_file():
                    without += 1
                    continue
                with collected.at(words):
                    caption = _caption(reading.inside(words))
                    image = folder.named(path.name)
                    found.append(CaptionedImage(image, reading.caption, None, path.stem, (caption,)))
        collected.leave_out(reading.path, without, "pictures without a text file beside them")
        return collected.some(found, "pictures with a caption beside them", part.files[0])


def _caption(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return text(" ".join(file.read(4 * LONGEST + 1).decode("utf-8-sig").split()), "the caption")
    except UnicodeDecodeError:
        raise UsageError("it is no text in UTF-8") from None
    except OSError as error:
        raise UsageError(f"it cannot be read ({error.strerror})") from None
