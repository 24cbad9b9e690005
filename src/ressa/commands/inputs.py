"""From what a recipe names to what is there: a dtype, a dataset folder, samples."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ressa.data import Sample, training_samples
from ressa.embedded import dataset_folder
from ressa.errors import UsageError
from ressa.provenance import fingerprint
from ressa.recipe import EMBEDDED

if TYPE_CHECKING:
    import torch


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


def draw_samples(spec: str, split: str, count: int, mixture: str, seed: int) -> list[Sample]:
    """Samples of a dataset folder, drawn with a seed; `mixture` may be several tasks separated by commas."""
    tasks = [task.strip() for task in mixture.split(",")]
    return training_samples(find_data(spec), split, count, seed, tasks if len(tasks) > 1 else mixture)


def fingerprint_samples(samples: Sequence[Sample]) -> str:
    """A digest of what the samples show and say, in order; the same wherever the folder lies."""

    def parts() -> Iterator[str | bytes]:
        for sample in samples:
            image = sample.image
            yield image.tobytes() if isinstance(image, Image.Image) else image.read_bytes()
            yield sample.prompt
            yield sample.target or ""

    return fingerprint(parts())
