"""From a file name in an annotation file to the file, and to nothing outside the data folder."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from PIL import Image

from ressa.data.values import text
from ressa.errors import UsageError

_COCO = re.compile(r"(?:^|.*\D)(\d{12})")
_OFFICIAL_COCO = re.compile(r"(?:COCO_(?:train|val|test)\d{4}_)?(\d{12})\.jpg")


class ImageFolder:
    """The pictures of one folder, or of several.

    Args:
        path: the folder.
        root: the data folder that it belongs to; by default itself. Nothing outside it is read.
        follow_links: follow a symbolic link out of `root`, where it leads to a picture or a folder of some.
        others: further folders within `root`, looked into for what the first has not.
    """

    def __init__(
        self,
        path: str | Path,
        root: str | Path | None = None,
        follow_links: bool = False,
        others: Sequence[Path] = (),
    ) -> None:
        self.path = Path(path)
        self.root = self.path if root is None else Path(root)
        self.follow_links = follow_links
        self.others = tuple(others)
        self._listings: dict[Path, dict[str, str]] = {}
        self._below: dict[tuple[str, ...], list[Path]] = {}
        if not self.path.is_dir():
            raise UsageError(f"image folder {self.path} does not exist: put the images there.")
        refuse_outside(self.path, self.root, self.follow_links)

    def named(self, name: object) -> Path:
        """The file of this name, which may have folders in it (train2014/x.jpg).

        It is looked for in the folder itself, then in those above it up to the data folder, then without its
        own folders; likewise in the other folders; then, where its name is COCO's, by its number, as COCO names one
        picture differently in different years. Raises UsageError when it is not there, no regular file, or leads out
        of the data folder.
        """
        words = text(name, "the file name").replace("\\", "/")
        parts = self._parts(words)
        for folder in self._places(parts[:-1]):
            if (kind := self._listing(folder).get(parts[-1])) is not None:
                return self._checked(folder / parts[-1], kind)
        if (official := _OFFICIAL_COCO.fullmatch(parts[-1])) is not None:
            same = self.coco_numbers.get(official[1].lstrip("0") or "0", [])
            if len(same) == 1:
                return self.named(same[0])
        else:
            same = []
        if not same:
            alike = self.stems.get(os.path.splitext(parts[-1])[0])
            hint = f" (there is {alike[0]})" if alike else ""
            raise UsageError(f"image {self._shown(words)} does not exist, and the annotations name it{hint}")
        raise UsageError(f"image {self._shown(words)} may be {same[0]} or {same[1]}: keep one of them")

    def called(self, stem: str) -> Path:
        """The file of this name, its suffix left out. Raises UsageError where there is none, or more than one."""
        names = self.stems.get(stem, [])
        if not names:
            raise UsageError(
                f"image {self._shown(stem)} does not exist, whatever its suffix, and the annotations name it"
            )
        if len(names) > 1:
            raise UsageError(f"image {stem} may be {names[0]} or {names[1]}: keep one of them")
        return self.named(names[0])

    @cached_property
    def stems(self) -> dict[str, list[str]]:
        """File names without suffix → files, of all that could be pictures by their suffix or have none."""
        return self._first_of(self._stems)

    @cached_property
    def _stems(self) -> list[dict[str, list[str]]]:
        """`stems` of each folder. Files of further folders are named from `root` on, as `named` takes them."""
        known = {".jpe", ".jfif", "", *Image.registered_extensions()}
        each = []
        for folder in (self.path, *self.others):
            found: dict[str, list[str]] = {}
            for name, kind in sorted(self._listing(folder).items()):
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in known and kind != "folder":
                    found.setdefault(stem, []).append(
                        name if folder == self.path else (folder.relative_to(self.root) / name).as_posix()
                    )
            each.append(found)
        return each

    def _first_of(self, each: Iterable[dict[str, list[str]]]) -> dict[str, list[str]]:
        """What the first folder says of a key, or else the next one."""
        found: dict[str, list[str]] = {}
        for folder in each:
            found = {**folder, **found}
        return found

    @cached_property
    def coco_numbers(self) -> dict[str, list[str]]:
        """Numbers → files named as COCO does it: by twelve digits at the end of the stem."""
        return self._by_number(lambda stem: found[1] if (found := _COCO.fullmatch(stem)) else "")

    @cached_property
    def last_numbers(self) -> dict[str, list[str]]:
        """Numbers → files whose stem ends in them."""
        return self._by_number(lambda stem: stem[len(stem.rstrip("0123456789")) :])

    def _by_number(self, digits_of: Callable[[str], str]) -> dict[str, list[str]]:
        each = []
        for stems in self._stems:
            found: dict[str, list[str]] = {}
            for stem, names in stems.items():
                if digits := digits_of(stem):
                    found.setdefault(digits.lstrip("0") or "0", []).extend(names)
            each.append(found)
        return self._first_of(each)

    @property
    def _homes(self) -> Iterator[Path]:
        yield self.path
        if self.path != self.root and self.path.is_relative_to(self.root):
            for above in self.path.parents:
                yield above
                if above == self.root:
                    return

    def _places(self, below: tuple[str, ...]) -> list[Path]:
        """The folders that a file whose name has these folders in it may be in, in order; asked for once."""
        if below not in self._below:
            places = [home.joinpath(*below) for home in (*self._homes, *self.others)]
            distinct = dict.fromkeys((*places, self.path, *self.others))
            self._below[below] = [folder for folder in distinct if self._listing(folder)]
        return self._below[below]

    def _parts(self, name: str) -> tuple[str, ...]:
        """The path's parts within the data folder."""
        path = PurePosixPath(name)
        if path.is_absolute() and path.is_relative_to(self.root.absolute().as_posix()):
            path = path.relative_to(self.root.absolute().as_posix())
        if path.is_absolute() or ".." in path.parts or "\0" in name or not path.parts:
            raise UsageError(f"image {name!r} is not in the data folder, and nothing else is read")
        return path.parts

    def _listing(self, folder: Path) -> dict[str, str]:
        """What is in a folder: name → file, link, folder or other (a pipe, a device)."""
        if folder not in self._listings:
            self._listings[folder] = self._list(folder)
        return self._listings[folder]

    def _list(self, folder: Path) -> dict[str, str]:
        found = {}
        try:
            with os.scandir(folder) as entries:
                refuse_outside(folder, self.root, self.follow_links)
                for entry in entries:
                    if entry.is_file(follow_symlinks=False):
                        found[entry.name] = "file"
                    elif entry.is_symlink():
                        found[entry.name] = "link"
                    else:
                        found[entry.name] = "folder" if entry.is_dir() else "other"
        except PermissionError as error:
            raise UsageError(f"{folder} cannot be read ({error.strerror}): check its rights.") from None
        except OSError:  # no such folder, or no name that a folder can have
            pass
        return found

    def _checked(self, path: Path, kind: str) -> Path:
        if kind == "link":
            refuse_outside(path, self.root, self.follow_links)
            if not path.exists():
                raise UsageError(f"image {self._shown(path.name)} is a link to a file that does not exist")
        if kind in ("other", "folder") or not (kind == "file" or path.is_file()):
            raise UsageError(f"image {self._shown(path.name)} is a folder, a pipe or a device")
        return path

    def _shown(self, name: str) -> Path:
        return self.path / name


def refuse_outside(path: Path, root: Path, follow_links: bool) -> None:
    """Raises UsageError if a path leads out of the data folder `root` and links are not to be followed."""
    if not follow_links and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise UsageError(
            f"{path} is a link that leads out of the data folder {root}: follow such links with --follow-links, "
            "or put the files there."
        )


def image_folder(images: str | Path | ImageFolder) -> ImageFolder:
    """The folder of this path, or the one given."""
    return images if isinstance(images, ImageFolder) else ImageFolder(images)
