"""Datasets in the public formats, and batches of model inputs made from them."""

from typing import TYPE_CHECKING

from ressa.doors import door

if TYPE_CHECKING:
    from ressa.data.batcher import Batcher
    from ressa.data.folder import DatasetFolder
    from ressa.data.inputs import batch_size_for, batches
    from ressa.data.rows import IGNORED
    from ressa.data.sample import CaptionedImage, LabelledImage, Question, Sample
    from ressa.data.training import training_samples
else:
    __getattr__, __dir__ = door(
        __name__,
        batcher="Batcher",
        folder="DatasetFolder",
        inputs="batch_size_for batches",
        rows="IGNORED",
        sample="CaptionedImage LabelledImage Question Sample",
        training="training_samples",
    )

__all__ = [
    "IGNORED",
    "Batcher",
    "CaptionedImage",
    "DatasetFolder",
    "LabelledImage",
    "Question",
    "Sample",
    "batch_size_for",
    "batches",
    "training_samples",
]
