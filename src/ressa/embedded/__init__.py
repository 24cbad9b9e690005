"""Small VLMs and their data, shipped with ressa: real enough to prune, break and repair without a network."""

from pathlib import Path
from typing import TYPE_CHECKING

from ressa.doors import door
from ressa.errors import UsageError

if TYPE_CHECKING:
    from ressa.embedded.dataset import SIZES, dataset_folder, is_drawn
else:
    __getattr__, __dir__ = door(__name__, dataset="SIZES dataset_folder is_drawn")

__all__ = ["EMBEDDED", "MODELS", "SIZES", "dataset_folder", "is_drawn", "model_folder"]

EMBEDDED = "embedded"
"""In place of a dataset folder: the scenes, drawn on first use."""
MODELS = ("embedded", "embedded-llava")


def model_folder(name: str) -> Path:
    """The checkpoint folder of an embedded model, `embedded` (InstructBLIP) or `embedded-llava`.

    Raises KeyError for another name, UsageError where the model is not shipped with this installation.
    """
    if name not in MODELS:
        raise KeyError(name)
    folder = Path(__file__).parent / "models" / name
    if not (folder / "config.json").is_file():
        there = ", ".join(other for other in MODELS if (folder.parent / other / "config.json").is_file())
        raise UsageError(
            f"'{name}' is not shipped with this version of ressa yet: use {there or 'a model folder'}."
        )
    return folder
