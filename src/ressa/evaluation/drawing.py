"""What a model is to be asked: each task's samples, read, checked and drawn before any model is needed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ressa.data import DatasetFolder, Question
from ressa.data.checking import PictureCheck, stored
from ressa.data.faults import Faults, OnBadSample
from ressa.data.folder import AUTO, SCORED
from ressa.data.picture import size_of
from ressa.data.prompts import CAPTION, QUESTION
from ressa.data.sample import image_key
from ressa.errors import UsageError
from ressa.provenance import fingerprint
from ressa.warned import warn

TASKS = ("vqa", "okvqa", "gqa", "caption", "retrieval")


@dataclass(frozen=True)
class Drawn:
    """Task → its samples, those of one image together; and how they were drawn.

    splits: task → the split that its samples are of.
    """

    samples: dict[str, list[Any]]
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
                references = sample.answers if isinstance(sample, Question) else sample.captions
                parts += [sample.id, sample.prompt, *references]
                for picture in stored(sample):
                    parts += [picture.name, str(size_of(picture))]
        return fingerprint(parts)


def draw(
    data: str | Path,
    tasks: Sequence[str] = TASKS,
    *,
    split: str = AUTO,
    limit: int | None = None,
    pool: int = 200,
    seed: int = 0,
    question: str = QUESTION,
    caption: str = CAPTION,
    on_bad: OnBadSample = "stop",
    follow_links: bool = False,
) -> Drawn:
    """Read a dataset folder's tasks; `evaluate` says what the arguments mean.

    Every picture is opened once. A task that the data has nothing for is left out, which is said. Raises UsageError
    for an unknown task, where nothing is left, or for anything wrong in the data.
    """
    unknown = [task for task in tasks if task not in TASKS]
    if unknown or not tasks:
        what = f"task {unknown[0]!r} is unknown" if unknown else "no task was named"
        raise UsageError(f"{what}: choose some of {', '.join(TASKS)}.")
    if limit is not None and limit < 1:
        raise UsageError(f"a limit of {limit} images leaves nothing to evaluate: ask for at least one.")
    faults = Faults(on_bad, data)
    folder = DatasetFolder(data, question, caption, follow_links=follow_links, faults=faults)
    pictures = PictureCheck(faults)
    splits = {task: found for task in tasks if (found := folder.choose(task, split, SCORED))}
    absent = [task for task in tasks if task not in splits]
    if not splits:
        raise UsageError(folder.missing(absent, split))
    if absent:
        warn(
            f"{folder.path} has nothing for {', '.join(absent)}{'' if split == AUTO else f' in {split}'}: left out."
        )
    samples: dict[str, list[Any]] = {}
    for task, found in splits.items():
        most = min(pool, limit or pool) if task == "retrieval" else limit
        groups: dict[Any, list[Any]] = {}
        for sample in folder.samples(task, found):
            groups.setdefault(image_key(sample), []).append(sample)
        chosen = _chosen(groups, most, seed)
        if most is not None and len(chosen) < most:
            wanted = f"{most:,} images were asked for"
            warn(f"{wanted}; {task} has {len(chosen):,} in the split {found!r} of {folder.path}.")
        samples[task] = pictures.usable([sample for image in chosen for sample in groups[image]])
    faults.settle()
    for task, asked in samples.items():
        if not asked:
            raise UsageError(f"{task} has nothing left to ask in {folder.path}: correct its files.")
        if task == "caption" and len(asked) < 2:
            raise UsageError("CIDEr-D weighs words by how few images they fit: caption at least two images.")
    return Drawn(samples, folder.name, splits, limit, seed, on_bad)


def _chosen(images: dict[Any, Any], limit: int | None, seed: int) -> list[Any]:
    if limit is None or limit >= len(images):
        return list(images)
    kept = set(random.Random(seed).sample(list(images), limit))
    return [image for image in images if image in kept]
