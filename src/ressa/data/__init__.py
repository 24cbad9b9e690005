"""Datasets in the public formats, and batches of model inputs made from them."""

from ressa.data.batcher import IGNORED, Batcher
from ressa.data.folder import DatasetFolder, Mixture, training_samples
from ressa.data.sample import CaptionedImage, Question, Sample

__all__ = [
    "IGNORED",
    "Batcher",
    "CaptionedImage",
    "DatasetFolder",
    "Mixture",
    "Question",
    "Sample",
    "training_samples",
]
