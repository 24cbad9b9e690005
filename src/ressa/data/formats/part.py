"""One split of one task, as a format finds it in a data folder, and what its reader is given."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ressa.data.faults import Faults, collecting
from ressa.data.image_folder import ImageFolder, refuse_outside
from ressa.data.prompts import CAPTION, QUESTION
from ressa.data.sample import AnySample
from ressa.data.tree import SPLITS
from ressa.data.values import fields
from ressa.errors import UsageError

Kind = Literal["captions", "questions", "conversations", "classes", "pictures"]

KINDS: dict[str, Kind] = {
    "caption": "captions",
    "flickr30k": "captions",
    "nocaps": "captions",
    "vqa": "questions",
    "okvqa": "questions",
    "gqa": "questions",
    "aokvqa": "questions",
    "textvqa": "questions",
    "vizwiz": "questions",
    "scienceqa": "questions",
    "mmbench": "questions",
    "pope": "questions",
    "vg": "questions",
    "qa": "questions",
    "instruct": "conversations",
    "zeroshot": "classes",
    "pictures": "pictures",
}
"""Task → what its samples are."""


@dataclass
class Reading:
    """How a data folder is read.

    path: the folder; nothing outside it is read unless `follow_links`. question, caption: the prompts. faults: where
    to put entries that cannot be used. enough: how many samples will be drawn, where that is known: a part that lies in
    many shards reads no more of them than that takes, chosen with `seed`. numbers: image id → file name by split, as
    far as it was looked up.
    """

    path: Path
    question: str = QUESTION
    caption: str = CAPTION
    faults: Faults | None = None
    follow_links: bool = False
    enough: int | None = None
    seed: int = 0
    numbers: dict[str, dict[str, str]] = field(default_factory=dict, repr=False)
    _folders: dict[tuple[Path, ...], ImageFolder] = field(default_factory=dict, repr=False)

    def ask(self, question: str) -> str:
        return self.question.replace("{}", question)

    def inside(self, path: Path) -> Path:
        """The path. Raises UsageError where it leads out of the folder."""
        refuse_outside(path, self.path, self.follow_links)
        return path

    def images(self, *paths: Path) -> ImageFolder:
        """The pictures of these folders, listed once."""
        if paths not in self._folders:
            self._folders[paths] = ImageFolder(paths[0], self.path, self.follow_links, paths[1:])
        return self._folders[paths]


@dataclass(frozen=True)
class Part:
    """One split of one task.

    task: a key of `KINDS`. split: train, val, test or such; own: what the dataset calls it (val2014). name: the
    dataset's. files: its annotation files. images: where its pictures are; wanted: what their folder is called where
    they are missing. read: all of its samples.
    """

    task: str
    split: str
    name: str
    files: tuple[Path, ...]
    read: Callable[[Reading, "Part"], Sequence[Any]] = field(repr=False, compare=False)
    images: tuple[Path, ...] = ()
    wanted: str = ""
    own: str = ""

    @property
    def kind(self) -> Kind:
        return KINDS[self.task]

    @cached_property
    def ready(self) -> bool:
        """Whether there are pictures."""
        return bool(self.images) or not self.wanted

    @cached_property
    def at_home(self) -> bool:
        """Whether its pictures are in their own folder, and not in those of COCO's other year, say."""
        return any(folder.name == self.wanted for folder in self.images)

    def samples(self, reading: Reading) -> Sequence[Any]:
        """Its samples. Raises UsageError where its pictures are missing."""
        if not self.ready:
            raise UsageError(
                f"{reading.path} has no pictures for {self.files[0].name} ({self.name}): put the folder "
                f"{self.wanted} there."
            )
        for file in self.files:
            reading.inside(file)
        return self.read(reading, self)

    def pictures(self, reading: Reading) -> ImageFolder:
        return reading.images(*self.images)


def check_split(said: object, split: str) -> None:
    """Raises UsageError where an entry says itself that it is of another split than its file."""
    if isinstance(said, str) and (found := SPLITS.get(said.lower())) is not None and found != split:
        raise UsageError(f"it is of the split {said}, and its file of {split}")


def read_each(
    reading: Reading,
    part: Part,
    file: Path,
    entries: Iterable[Any],
    make: Callable[[dict[str, Any]], AnySample | None],
    *,
    where: str = "entry",
    left_out: str = "entries without an answer",
) -> list[AnySample]:
    """What `make` makes of each entry, which is a JSON object; a UsageError in it becomes a fault of that entry.

    Entries of which it makes None are left out, which is said: `left_out` calls them.
    """
    found: list[AnySample] = []
    missing = 0
    with collecting(reading.faults) as collected:
        for place, entry in enumerate(entries):
            with collected.at(file, where, place):
                made = make(fields(entry))
                if made is None:
                    missing += 1
                else:
                    found.append(made)
        collected.leave_out(file, missing, left_out)
        return collected.some(found, f"samples of {part.name}", file)
