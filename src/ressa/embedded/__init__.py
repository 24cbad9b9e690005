"""Small VLMs and their data, shipped with ressa: real enough to prune, break and repair without a network."""

from pathlib import Path

from ressa.embedded.dataset import SIZES, dataset_folder

__all__ = ["MODELS", "SIZES", "dataset_folder", "model_folder"]

MODELS = ("embedded", "embedded-llava")


def model_folder(name: str) -> Path:
    """The checkpoint folder of an embedded model: `embedded` (InstructBLIP) or `embedded-llava`. KeyError otherwise."""
    if name not in MODELS:
        raise KeyError(name)
    return Path(__file__).parent / "models" / name
