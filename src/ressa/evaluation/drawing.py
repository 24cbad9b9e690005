"""What a model is to be asked: each task's samples, read, checked and drawn before any model is needed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ressa.data import DatasetFolder
from ressa.data.checking import PictureCheck, stored
from ressa.data.faults import Faults, OnBadSample
from ressa.data.folder import AUTO, SCORED
from ressa.data.picture import size_of
from ressa.data.sample import image_key
from ressa.errors import UsageError
from ressa.evaluation.protocols import Settings, settings_of
from ressa.evaluation.tasks import task_named
from ressa.provenance import fingerprint
from ressa.task_names import EVERY_TASK, TASKS
from ressa.warned import warn


@dataclass(frozen=True)
class Drawn:
    """Task → its samples, those of one image together, and how it asks about them; and how they were drawn.

    splits: task → the split that its samples are of.
    """

    samples: dict[str, list[Any]]
    settings: dict[str, Settings]
    name: str
    splits: dict[str, str]
    limit: int | None
    seed: int
    on_bad: OnBadSample

    @cached_property
    def fingerprint(self) -> str:
        """A digest of every prompt and reference, and of each image's name and size in bytes."""
        parts = []
        for task, asked in self.samples.items():
            parts.append(task)
            for sample in asked:
                parts += [sample.id, sample.prompt, *task_named(task).references(sample)]
                for picture in stored(sample):
                    parts += [picture.name, str(size_of(picture))]
        return fingerprint(parts)


def draw(
    data: str | Path,
    tasks: Sequence[str] = TASKS,
    *,
    split: str = AUTO,
    limit: int | None = None,
    pool: int | None = 200,
    seed: int = 0,
    protocol: str = "ressa",
    on_bad: OnBadSample = "stop",
    follow_links: bool = False,
    look: bool = True,
    **own: Any,
) -> Drawn:
    """Read a dataset folder's tasks; `evaluate` says what the arguments mean. own: what `settings_of` takes.

    Every picture is opened once, unless nobody will look at them. A task that the data has nothing for is left out,
    which is said. Raises UsageError for an unknown task, where nothing is left, or for anything wrong in the data.
    """
    if not tasks:
        raise UsageError(f"no task was named: choose some of {', '.join(EVERY_TASK)}.")
    asked = {name: task_named(name) for name in tasks}
    settings = {name: settings_of(name, protocol, **own) for name in asked}
    if limit is not None and limit < 1:
        raise UsageError(f"a limit of {limit} images leaves nothing to evaluate: ask for at least one.")
    faults = Faults(on_bad, data)
    folder = DatasetFolder(data, follow_links=follow_links, faults=faults)
    pictures = PictureCheck(faults)
    splits = {
        name: found for name, task in asked.items() if (found := folder.choose(task.data, split, SCORED))
    }
    absent = [name for name in asked if name not in splits]
    if not splits:
        raise UsageError(folder.missing([asked[name].data for name in absent], split))
    if absent:
        where = "" if split == AUTO else f" in {split}"
        warn(f"{folder.path} has nothing for {', '.join(absent)}{where}: left out.")
    samples: dict[str, list[Any]] = {}
    for name, its in splits.items():
        task = asked[name]
        if several := folder.rivals(task.data, its):
            warn(several)
        most = limit
        if name == "retrieval" and pool is not None:
            most = min(pool, limit or pool)
        groups: dict[Any, list[Any]] = {}
        for sample in task.read(folder, its):
            groups.setdefault(image_key(sample), []).extend(task.put(sample, settings[name]))
        chosen = _chosen(groups, most, seed)
        if most is not None and len(chosen) < most:
            wanted = f"{most:,} images were asked for"
            warn(f"{wanted}; {name} has {len(chosen):,} in the split {its!r} of {folder.path}.")
        to_ask = [sample for image in chosen for sample in groups[image]]
        samples[name] = pictures.usable(to_ask) if look else to_ask
    faults.settle()
    for name, to_ask in samples.items():
        if not to_ask:
            raise UsageError(f"{name} has nothing left to ask in {folder.path}: correct its files.")
        if reason := asked[name].refuse(to_ask):
            raise UsageError(reason)
    return Drawn(samples, settings, folder.name, splits, limit, seed, on_bad)


def _chosen(images: dict[Any, Any], limit: int | None, seed: int) -> list[Any]:
    if limit is None or limit >= len(images):
        return list(images)
    kept = set(random.Random(seed).sample(list(images), limit))
    return [image for image in images if image in kept]
