"""Datasets in the public formats, and batches of model inputs made from them."""

from ressa.data.batcher import IGNORED, Batcher
from ressa.data.folder import DatasetFolder
from ressa.data.sample import CaptionedImage, Question, Sample
from ressa.data.training import training_samples

__all__ = [
    "IGNORED",
    "Batcher",
    "CaptionedImage",
    "DatasetFolder",
    "Question",
    "Sample",
    "training_samples",
]
