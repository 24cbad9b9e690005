"""Image-text samples with targets, drawn from a dataset folder: what calibration and repair run on."""

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, zip_longest
from pathlib import Path

from ressa.data.checking import PictureCheck
from ressa.data.faults import Faults, OnBadSample
from ressa.data.folder import FILES, DatasetFolder
from ressa.data.prompts import CAPTION, QUESTION
from ressa.data.sample import CaptionedImage, Question, Sample
from ressa.errors import UsageError
from ressa.warned import warn

CAPTIONS, QA = ["caption"], ["vqa", "okvqa", "gqa"]


def training_samples(
    folder: str | Path,
    split: str,
    count: int,
    seed: int = 0,
    mixture: str | Sequence[str] = "captions",
    *,
    question: str = QUESTION,
    caption: str = CAPTION,
    on_bad: OnBadSample = "stop",
    follow_links: bool = False,
) -> list[Sample]:
    """`count` image-text samples of a split, drawn with a seed, for calibration and repair.

    mixture: `captions` (RESSA's choice), `qa` (questions of VQAv2, OK-VQA and GQA, those the split has),
    `mix` (half and half), or task names (`caption`, `vqa`, `okvqa`, `gqa`: equal shares of those the split
    has). Captions are drawn one an image, then second captions once every image has given one, and so on; a
    question's target is its most common answer. `question` and `caption` are the prompts. A split with fewer
    samples gives all it has, and that is said.

    Every picture is opened before they are handed out. on_bad: `stop` for what cannot be used (a UsageError), or
    `skip` it and draw another. follow_links: follow symbolic links that lead out of the folder.

    Raises UsageError when there is nothing to draw from.
    """
    if count < 1:
        raise UsageError(f"{count} samples were asked for: ask for at least one.")
    faults = Faults(on_bad, folder)
    data = DatasetFolder(folder, question, caption, follow_links=follow_links, faults=faults)
    rng = random.Random(seed)
    pools = [[_pool(data, task, split, rng) for task in tasks] for tasks in _groups(data, split, mixture)]
    order = _in_turn(map(_in_turn, pools))
    pictures = PictureCheck(faults)
    samples: list[Sample] = []
    while drawn := list(islice(order, count - len(samples))):
        samples += pictures.usable(drawn)
    faults.settle()
    if not samples:
        raise UsageError(
            f"{data.path} has no sample of the split {split!r} that can be used: correct its files."
        )
    if len(samples) < count:
        warn(f"{count:,} samples were asked for; the split {split!r} of {data.path} has {len(samples):,}.")
    rng.shuffle(samples)
    return samples


def _groups(data: DatasetFolder, split: str, mixture: str | Sequence[str]) -> list[list[str]]:
    """Groups of tasks with equal shares, each task's file being there."""
    names = {"captions": [CAPTIONS], "qa": [QA], "mix": [CAPTIONS, QA]}
    if isinstance(mixture, str) and mixture in names:
        wanted = names[mixture]
    else:
        tasks = [mixture] if isinstance(mixture, str) else list(mixture)
        unknown = [task for task in tasks if task not in FILES]
        if unknown or not tasks:
            raise UsageError(
                f"mixture {mixture!r} is unknown: choose captions, qa, mix or some of {', '.join(FILES)}."
            )
        wanted = [tasks]
    present = [[task for task in group if data.has(task, split)] for group in wanted]
    for group, tasks in zip(wanted, present, strict=True):
        if not tasks:
            missing = " or ".join(FILES[task].format(split) for task in group)
            splits = sorted({name for task in group for name in data.splits(task)})
            others = f" (there is {' and '.join(splits)})" if splits else ""
            raise UsageError(
                f"{data.path} has no {missing}: add it, or choose another split than {split!r}{others}."
            )
    return present


def _pool(data: DatasetFolder, task: str, split: str, rng: random.Random) -> list[Sample]:
    """All samples of a task in a random order."""
    if task == "caption":
        return _caption_samples(data.captions(split), rng)
    questions: list[Question] = getattr(data, task)(split)
    samples = [Sample(each.image, each.prompt, each.target, each.id) for each in questions]
    return rng.sample(samples, len(samples))


def _caption_samples(images: list[CaptionedImage], rng: random.Random) -> list[Sample]:
    shuffled = rng.sample(images, len(images))
    orders = [rng.sample(image.captions, len(image.captions)) for image in shuffled]
    each = (
        [Sample(image.image, image.prompt, caption, image.id) for caption in captions]
        for image, captions in zip(shuffled, orders, strict=True)
    )
    return list(_in_turn(each))


def _in_turn(pools: Iterable[Iterable[Sample]]) -> Iterator[Sample]:
    """One sample of each pool after the other, as long as each lasts: any part from the front has equal shares."""
    return (sample for turn in zip_longest(*pools) for sample in turn if sample is not None)
