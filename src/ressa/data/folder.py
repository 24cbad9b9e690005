"""A data folder: what is in it, and the samples of each task and split. docs/data.md shows what is recognised."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ressa.data.faults import Faults
from ressa.data.formats import detect, own
from ressa.data.formats.hub import HUB, find_in_hub
from ressa.data.formats.part import KINDS, Part, Reading
from ressa.data.prompts import CAPTION, QUESTION
from ressa.data.sample import with_split
from ressa.data.tree import Tree
from ressa.embedded import EMBEDDED, dataset_folder
from ressa.errors import UsageError

AUTO = "auto"
"""In place of a split: the first that a task has, of those below."""
CALIBRATED = ("calibration", "train", "all")
TRAINED = ("train", "all")
SCORED = ("test", "testdev", "val")

RETRIEVAL = "retrieval"
TASKS = (*KINDS, RETRIEVAL)


def find_data(name: str | Path) -> Path | str:
    """The dataset folder of this name, or the name of a hub's; `embedded` is drawn on first use. Raises UsageError
    for none."""
    if name == EMBEDDED:
        return dataset_folder()
    if str(name).startswith(HUB):
        return str(name)
    if not Path(name).is_dir():
        raise UsageError(
            f"There is no dataset folder {name}: name one (docs/data.md), 'hub:owner/name' or 'embedded'."
        )
    return Path(name)


class DatasetFolder:
    """Reads the datasets that lie in a folder, in their official layouts or in ressa's own (`formats.own`).

    Args:
        name: the folder, outside which nothing is read; `hub:owner/name`, a dataset of the hub; or `embedded`.
        question: what a question is put into, at its `{}`.
        caption: what asks for a caption.
        follow_links: follow symbolic links that lead out of the folder.
        faults: where to put the entries that cannot be used, for the caller to settle; by default a method
            raises UsageError for them itself.
        enough: how many samples will be drawn, where that is known, and the seed: shards are then read no further.
    """

    def __init__(
        self,
        name: str | Path,
        question: str = QUESTION,
        caption: str = CAPTION,
        *,
        follow_links: bool = False,
        faults: Faults | None = None,
        enough: int | None = None,
        seed: int = 0,
    ) -> None:
        if question.count("{}") != 1:
            raise UsageError(f"the question prompt {question!r} needs one {{}} where the question goes.")
        found = find_data(name)
        self.path = Path(found)
        self._hub = found.removeprefix(HUB) if isinstance(found, str) else None
        self.reading = Reading(self.path, question, caption, faults, follow_links, enough, seed)

    @property
    def follow_links(self) -> bool:
        return self.reading.follow_links

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @cached_property
    def parts(self) -> list[Part]:
        """Everything that is recognised. Of several with one task and split the first one is meant by them."""
        if self._hub is not None:
            return list(find_in_hub(self._hub))
        return list(detect(Tree(self.path, self.reading.follow_links)))

    def tasks(self, split: str | None = None) -> list[str]:
        """The tasks that there is anything for (in a split)."""
        there = {part.task for part in self.parts if split is None or split in (part.split, part.own)}
        return [task for task in KINDS if task in there]

    def splits(self, task: str) -> list[str]:
        """The splits of a task."""
        return sorted({part.split for part in self.parts if part.task in _tasks(task)})

    def has(self, task: str, split: str) -> bool:
        """Whether there is a task, in a split that is called so by ressa (val) or by its dataset (val2014)."""
        return self._find(task, split) is not None

    def choose(self, task: str, split: str, order: Sequence[str]) -> str | None:
        """The split that is meant: the first that the task has of those named, separated by commas, `auto` standing for
        those of `order`; None where there is none.

        Splits with pictures come before those without.
        """
        named = [each.strip() for each in split.split(",")]
        wanted = [each for name in named for each in (order if name == AUTO else (_plain(name),))]
        there = {each: part for each in wanted if (part := self._find(task, each))}
        return next((each for each, part in there.items() if part.ready), next(iter(there), None))

    def taken(self, task: str, order: Sequence[str]) -> Part | None:
        """The part of a task that is read where no split is named."""
        split = self.choose(task, AUTO, order)
        return None if split is None else self._find(task, split)

    def vqa(self, split: str) -> Sequence[Any]:
        """VQAv2's questions, `samples` by the name of a task; likewise `okvqa`, `gqa` and `captions`."""
        return self.samples("vqa", split)

    def okvqa(self, split: str) -> Sequence[Any]:
        return self.samples("okvqa", split)

    def gqa(self, split: str) -> Sequence[Any]:
        return self.samples("gqa", split)

    def captions(self, split: str) -> Sequence[Any]:
        return self.samples("caption", split)

    def samples(self, task: str, split: str) -> Sequence[Any]:
        """The samples of a task in a split: Questions, CaptionedImages or conversations, in file order.

        `retrieval` is the pool of images and their captions. Raises UsageError for a task or split that is not there,
        with those that are, and for what is wrong in its files.
        """
        if task not in TASKS:
            raise UsageError(f"task {task!r} is unknown: choose one of {', '.join(TASKS)}.")
        split = _plain(split)
        listed = self.path / "karpathy.json"
        if task == RETRIEVAL and listed.is_file():
            return with_split(own.read_pool(self.reading, split), split)
        part = self._find(task, split)
        if part is None:
            raise UsageError(self.missing([task], split))
        return with_split(part.samples(self.reading), part.split)

    def _find(self, task: str, split: str) -> Part | None:
        return next(iter(self._parts(task, split)), None)

    def _parts(self, task: str, split: str) -> list[Part]:
        """What has a task in a split, those with pictures and those that ressa calls so coming first."""
        order = _tasks(task)
        found = [part for part in self.parts if part.task in order and split in (part.split, part.own)]
        return sorted(
            found,
            key=lambda part: (order.index(part.task), not part.ready, not part.at_home, part.split != split),
        )

    def rivals(self, task: str, split: str) -> str | None:
        """One sentence where several datasets have a task in a split, of which the first is taken."""
        taken, *others = self._parts(task, split)
        rest = [part for part in others if part.ready and not {*part.files} <= {*taken.files}]
        names = {part.name: part.own for part in rest if part.name != taken.name}
        if not names or not taken.ready:
            return None
        ways = [f"--split {own} takes {name}'s" for name, own in names.items() if own not in ("", split)]
        return (
            f"{self.path} has {task} in the split {split!r} of {' and '.join([taken.name, *names])}: "
            f"{taken.name}'s is taken ({', '.join(ways) or 'a folder of its own, for the others'})."
        )

    def missing(self, tasks: Sequence[str], split: str) -> str:
        """One sentence for tasks that are not there in a split."""
        splits = sorted({each for task in tasks for each in self.splits(task)})
        what = tasks[0] if len(tasks) == 1 else f"{', '.join(tasks[:-1])} or {tasks[-1]}"
        if splits:
            where = "to do this on" if split == AUTO else f"in the split {split!r}"
            asked = "name a split with --split" if split == AUTO else "choose another split"
            return (
                f"{self.path} has no {what} {where}: {asked} (there is {' and '.join(splits)}), or "
                "add it (docs/data.md)."
            )
        there = self.tasks()
        if there:
            return f"{self.path} has nothing for {what}: it has {', '.join(there)}. Choose among them, or add it."
        return f"{self.path} holds no dataset that is recognised: docs/data.md shows which are, and how they lie."


def _tasks(task: str) -> tuple[str, ...]:
    """The tasks whose samples serve a task: retrieval takes captioned images."""
    return ("caption", "flickr30k") if task == RETRIEVAL else (task,)


def _plain(split: str) -> str:
    """The same: a split's name, which is part of file names. Raises UsageError for one that leads elsewhere."""
    if not split or split in (".", "..") or "/" in split or "\0" in split or len(split) > 100:
        raise UsageError(f"a split cannot be called {split[:100]!r}: name one such as train, val or test.")
    return split
