"""From what a recipe names to what is there: a dtype, a dataset folder, samples."""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from ressa.data import Sample, training_samples
from ressa.data.checking import readable, stored
from ressa.data.faults import Faults, OnBadSample
from ressa.data.folder import TRAINED, find_data
from ressa.data.formats.part import KINDS
from ressa.data.picture import size_of
from ressa.data.training import tasks_in
from ressa.errors import UsageError
from ressa.provenance import fingerprint
from ressa.recipe.sources import Source, sources_in_words

MIX, PAIRS = "mix", "pairs"

if TYPE_CHECKING:
    import torch

    from ressa.checkpoint import Vlm


def find_dtype(name: str) -> "torch.dtype | None":
    """None for `auto`: the one the checkpoint was saved in."""
    import torch

    return None if name == "auto" else getattr(torch, name)


def draw_samples(
    sources: str | tuple[Source, ...],
    split: str,
    count: int,
    mixture: str,
    seed: int,
    *,
    order: Sequence[str] = TRAINED,
    on_bad: OnBadSample = "stop",
    follow_links: bool = False,
) -> list[Sample]:
    """Samples of a dataset folder or of several by their weights, drawn with a seed.

    split, mixture: of the sources that name none of their own. order, on_bad, follow_links: as `training_samples`
    takes them.
    """
    options: dict[str, Any] = {"order": order, "on_bad": on_bad, "follow_links": follow_links}
    if isinstance(sources, str):
        return training_samples(sources, split, count, seed, mixture, **options)
    for source in sources:
        find_data(source.data)  # all of them, before any is read
    samples: list[Sample] = []
    for source, part in zip(sources, shares(count, [source.weight for source in sources]), strict=True):
        if part:
            own = source.split or split, part, seed, source.mixture or mixture
            samples += training_samples(source.data, *own, **options)
    random.Random(seed).shuffle(samples)
    return samples


def whence(
    sources: str | tuple[Source, ...], mixture: str, count: int, samples: Sequence[Sample]
) -> dict[str, Any]:
    """What a manifest says of samples that were drawn: whence, what, and how many. count: as many were asked for."""
    about: dict[str, Any] = {
        "name": sources_in_words(sources),
        "split": splits_of(samples),
        "mixture": mixture,
        "samples": len(samples),
    }
    if not isinstance(sources, str):
        parts = shares(count, [source.weight for source in sources])
        about["sources"] = [
            {**source.model_dump(exclude_none=True), "samples": part}
            for source, part in zip(sources, parts, strict=True)
        ]
    return about


def shares(count: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers that come to `count` and are as the weights, by the largest remainders."""
    total = sum(weights)
    exact = [count * weight / total for weight in weights]
    found = [int(each) for each in exact]
    by_remainder = sorted(range(len(weights)), key=lambda place: found[place] - exact[place])
    for place in by_remainder[: count - sum(found)]:
        found[place] += 1
    return found


def fitting(
    samples: Sequence[Sample],
    vlm: "Vlm",
    on_bad: OnBadSample,
    mixture: str,
    draw: Callable[[str], list[Sample]],
) -> list[Sample]:
    """The samples whose texts the model can read: all of them, or on `skip` those that it can.

    A dual encoder reads pictures and what is said of them, so that pairs take the place of the mixture where no other
    than the default was asked for. mixture: what the samples are. draw: samples of another one, drawn likewise.

    Raises UsageError for those that it cannot, before any work starts.
    """
    from ressa.data.batcher import Batcher
    from ressa.data.inputs import batcher_of

    batcher = batcher_of(vlm)
    if not isinstance(batcher, Batcher):  # its processor cuts texts that are too long
        if mixture == MIX:
            return draw(PAIRS)
        if asked := [
            task for task in tasks_in(mixture) if KINDS[task] not in ("captions", "classes", "pictures")
        ]:
            raise UsageError(
                f"{type(vlm.model).__name__} tells which text belongs to a picture, and '{asked[0]}' has no texts that "
                "say what is in one: choose captions or pairs for the mixture."
            )
        return list(samples)
    faults = Faults(on_bad)
    found = readable(batcher.apart(samples), batcher, faults)
    faults.settle()
    if not found:
        raise UsageError("No sample is left that this model can read: shorten their texts.")
    return found


def fingerprint_samples(samples: Sequence[Sample]) -> str:
    """A digest of what the samples show and say, in order; the same wherever the folder lies."""

    def parts() -> Iterator[str | bytes]:
        for sample in samples:
            for image in sample.images:
                yield image.tobytes() if isinstance(image, Image.Image) else image.read_bytes()
            for asked, said in sample.turns:
                yield asked
                yield said or ""

    return fingerprint(parts())


def fingerprint_of_names(samples: Sequence[Sample]) -> str:
    """A digest of what the samples say and of their pictures' names and sizes in bytes, which is quicker to tell."""

    def parts() -> Iterator[str]:
        for sample in samples:
            for picture in stored(sample):
                yield from (picture.name, str(size_of(picture)))
            for asked, said in sample.turns:
                yield from (asked, said or "")

    return fingerprint(parts())


def splits_of(samples: Sequence[Sample]) -> str:
    """The splits that samples were drawn from, as text."""
    return " and ".join(sorted({sample.split for sample in samples if sample.split}))
