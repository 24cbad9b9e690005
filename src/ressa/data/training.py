"""Image-text samples with targets, drawn from a dataset folder: what calibration and repair run on."""

import heapq
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from ressa.data.checking import PictureCheck
from ressa.data.faults import Faults, OnBadSample
from ressa.data.folder import AUTO, TRAINED, DatasetFolder
from ressa.data.formats.part import KINDS, Kind
from ressa.data.prefixes import cut_caption
from ressa.data.prompts import CAPTION, CLASS, QUESTION
from ressa.data.sample import CaptionedImage, Sample
from ressa.errors import UsageError
from ressa.warned import warn

MIXTURES: dict[str, list[Kind]] = {
    "captions": ["captions"],
    "qa": ["questions"],
    "mix": ["captions", "questions"],
    "instruct": ["conversations"],
    "pairs": ["captions", "classes"],
    "prefix-captions": ["captions"],
}
"""Mixture → the kinds of samples that it takes equal shares of."""
WITHOUT_WORDS = ("captions", "mix", "pairs")
"""Mixtures in whose place classes, or else pictures alone, are taken where a folder has nothing else."""


def training_samples(
    folder: str | Path,
    split: str,
    count: int,
    seed: int = 0,
    mixture: str | Sequence[str] = "captions",
    *,
    question: str = QUESTION,
    caption: str = CAPTION,
    order: Sequence[str] = TRAINED,
    on_bad: OnBadSample = "stop",
    follow_links: bool = False,
) -> list[Sample]:
    """`count` image-text samples of a split, drawn with a seed, for calibration and repair.

    split: `auto` for the first of `order` that each task has.

    mixture: `captions` (RESSA's choice), `qa` (questions), `mix` (half and half), `instruct` (conversations),
    `prefix-captions` (captions to be continued, `prefixes`), or task
    names such as `caption` or `vqa`, with weights where they have any (`caption:2,vqa`); of several tasks, those that
    the split has get these shares. Captions are drawn one an image, then second captions once every image has given
    one, and so on; a question's target is its most common answer, a class's a sentence with its name. `question` and
    `caption` are the prompts. A split with fewer samples gives all it has, and that is said.

    Every picture is opened before they are handed out. on_bad: `stop` for what cannot be used (a UsageError), or
    `skip` it and draw another. follow_links: follow symbolic links that lead out of the folder.

    Raises UsageError when there is nothing to draw from.
    """
    if count < 1:
        raise UsageError(f"{count} samples were asked for: ask for at least one.")
    faults = Faults(on_bad, folder)
    data = DatasetFolder(
        folder, question, caption, follow_links=follow_links, faults=faults, enough=count, seed=seed
    )
    rng = random.Random(seed)
    groups, weights = _groups(data, split, order, mixture), weights_in(mixture)
    shares = [
        (1.0, _in_shares([(weights.get(task, 1.0), _pool(data, task, found, rng)) for task, found in group]))
        for group in groups
    ]
    queue = _in_shares(shares)
    pictures = PictureCheck(faults)
    samples: list[Sample] = []
    while drawn := list(islice(queue, count - len(samples))):
        samples += pictures.usable(drawn)
    faults.settle()
    taken = " and ".join(sorted({repr(found) for group in groups for _, found in group}))
    if not samples:
        raise UsageError(
            f"{data.path} has no sample of the split {taken} that can be used: correct its files."
        )
    if len(samples) < count:
        warn(f"{count:,} samples were asked for; the split {taken} of {data.path} has {len(samples):,}.")
    if mixture == "prefix-captions":
        samples = [cut_caption(sample, rng) for sample in samples]
    rng.shuffle(samples)
    return samples


def _groups(
    data: DatasetFolder, split: str, order: Sequence[str], mixture: str | Sequence[str]
) -> list[list[tuple[str, str]]]:
    """Groups of tasks with equal shares, each task with the split that it is taken from."""
    if isinstance(mixture, str) and mixture in MIXTURES:
        wanted = [tasks_of(kind) for kind in MIXTURES[mixture]]
    else:
        tasks = tasks_in(mixture)
        unknown = [task for task in tasks if task not in KINDS]
        if unknown or not tasks:
            raise UsageError(
                f"mixture {mixture!r} is unknown: choose {', '.join(MIXTURES)} or some of {', '.join(KINDS)}."
            )
        wanted = [tasks]

    def there(group: Sequence[str]) -> list[tuple[str, str]]:
        return [(task, found) for task in group if (found := data.choose(task, split, order))]

    where = "" if split == AUTO else f" in the split {split!r}"

    present = [there(group) for group in wanted]
    if not any(present) and mixture in WITHOUT_WORDS:
        rest = [tasks_of(kind) for kind in ("classes", "pictures") if there(tasks_of(kind))]
        wanted = rest[:1] or wanted
        present = [there(group) for group in wanted]
    if not any(present):
        raise UsageError(data.missing([task for group in wanted for task in group], split))
    for group, found in zip(wanted, present, strict=True):
        if not found and mixture != "pairs":
            warn(f"{data.path} has no {KINDS[group[0]]}{where}: the mixture is the rest.")
        elif not isinstance(mixture, str) or mixture not in MIXTURES:
            taken = [task for task, _ in found]
            if absent := [task for task in group if task not in taken]:
                warn(f"{data.path} has no {' and no '.join(absent)}{where}: the mixture is the rest.")
    for task, chosen in (pair for group in present for pair in group):
        if several := data.rivals(task, chosen):
            warn(several)
    return [group for group in present if group]


def tasks_in(mixture: str | Sequence[str]) -> list[str]:
    """The tasks of a mixture, by its name or as they are listed, separated by commas in a text."""
    if isinstance(mixture, str) and mixture in MIXTURES:
        return [task for kind in MIXTURES[mixture] for task in tasks_of(kind)]
    return list(weights_in(mixture))


def weights_in(mixture: str | Sequence[str]) -> dict[str, float]:
    """Task → weight, of tasks that are listed, each with its weight behind a colon where it has one.

    Raises UsageError for a weight that is no number above 0.
    """
    if isinstance(mixture, str) and mixture in MIXTURES:
        return {}
    listed = [task.strip() for task in mixture.split(",")] if isinstance(mixture, str) else list(mixture)
    found = {}
    for entry in listed:
        task, colon, said = entry.partition(":")
        try:
            weight = float(said) if colon else 1.0
        except ValueError:
            weight = 0.0
        if not 0 < weight <= 1e9:
            raise UsageError(
                f"mixture {entry!r} has a weight that is no number above 0: write such as caption:2."
            )
        found[task.strip()] = weight
    return found


def tasks_of(kind: Kind) -> list[str]:
    return [task for task in KINDS if KINDS[task] == kind]


def _pool(data: DatasetFolder, task: str, split: str, rng: random.Random) -> list[Sample]:
    """All samples of a task in a random order."""
    found = data.samples(task, split)
    if KINDS[task] == "captions":
        return _caption_samples(found, rng)
    if KINDS[task] == "classes":
        samples = [replace(each, target=CLASS.format(each.label)) for each in found]
        return rng.sample(samples, len(samples))
    if KINDS[task] in ("conversations", "pictures"):
        return rng.sample(found, len(found))
    samples = [Sample(each.image, each.prompt, each.target, each.id, split=each.split) for each in found]
    return rng.sample(samples, len(samples))


def _caption_samples(images: Sequence[CaptionedImage], rng: random.Random) -> list[Sample]:
    shuffled = rng.sample(images, len(images))
    orders = [rng.sample(image.captions, len(image.captions)) for image in shuffled]
    each = (
        [Sample(image.image, image.prompt, caption, image.id, split=image.split) for caption in captions]
        for image, captions in zip(shuffled, orders, strict=True)
    )
    return list(_in_turn(each))


def _in_turn(pools: Iterable[Iterable[Sample]]) -> Iterator[Sample]:
    """One sample of each pool after the other, as long as each lasts."""
    return _in_shares([(1.0, pool) for pool in pools])


def _in_shares(pools: Iterable[tuple[float, Iterable[Sample]]]) -> Iterator[Sample]:
    """Samples of pools by their weights, as long as each lasts: any part from the front has these shares."""
    waiting = [(1 / weight, place, 1 / weight, iter(pool)) for place, (weight, pool) in enumerate(pools)]
    heapq.heapify(waiting)
    while waiting:
        due, place, step, pool = waiting[0]
        sample = next(pool, None)
        if sample is None:
            heapq.heappop(waiting)
        else:
            heapq.heapreplace(waiting, (due + step, place, step, pool))
            yield sample
