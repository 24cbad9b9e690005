"""From what a recipe names to what is there: a dtype, a dataset folder, samples."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ressa.data import Sample, training_samples
from ressa.data.checking import readable
from ressa.data.faults import Faults, OnBadSample
from ressa.data.folder import TRAINED
from ressa.data.formats.part import KINDS
from ressa.data.training import tasks_in
from ressa.embedded import dataset_folder
from ressa.errors import UsageError
from ressa.provenance import fingerprint
from ressa.recipe import EMBEDDED

MIX, PAIRS = "mix", "pairs"

if TYPE_CHECKING:
    import torch

    from ressa.checkpoint import Vlm


def find_dtype(name: str) -> "torch.dtype | None":
    """None for `auto`: the one the checkpoint was saved in."""
    import torch

    return None if name == "auto" else getattr(torch, name)


def find_data(spec: str) -> Path:
    """The dataset folder a recipe names; `embedded` is drawn on first use. Raises UsageError for none."""
    if spec == EMBEDDED:
        return dataset_folder()
    folder = Path(spec)
    if not folder.is_dir():
        raise UsageError(f"There is no dataset folder {spec}: name one (docs/evaluate.md), or 'embedded'.")
    return folder


def draw_samples(
    spec: str,
    split: str,
    count: int,
    mixture: str,
    seed: int,
    *,
    order: Sequence[str] = TRAINED,
    on_bad: OnBadSample = "stop",
    follow_links: bool = False,
) -> list[Sample]:
    """Samples of a dataset folder, drawn with a seed; `mixture` may be several tasks separated by commas.

    order, on_bad, follow_links: as `training_samples` takes them.
    """
    tasks = [task.strip() for task in mixture.split(",")]
    wanted = tasks if len(tasks) > 1 else mixture
    return training_samples(
        find_data(spec),
        split,
        count,
        seed,
        wanted,
        order=order,
        on_bad=on_bad,
        follow_links=follow_links,
    )


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
    from ressa.data.batcher import Batcher, batcher_of

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


def splits_of(samples: Sequence[Sample]) -> str:
    """The splits that samples were drawn from, as text."""
    return " and ".join(sorted({sample.split for sample in samples if sample.split}))
