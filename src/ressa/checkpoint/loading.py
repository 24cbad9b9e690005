"""From what a user calls a model to the model in memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.constants import HF_HUB_OFFLINE
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

from ressa.anatomy import find_anatomy
from ressa.checkpoint.companions import companions_folder
from ressa.checkpoint.place import find
from ressa.embedded import MODELS
from ressa.errors import UsageError


@dataclass
class Vlm:
    """A vision-language model with its processor. source: the name it was loaded by. folder: where the files beside
    its weights lie on this machine; None for a model that was made in memory."""

    model: Any
    processor: Any
    source: str = ""
    folder: Path | None = None


def load(
    spec: str | Path, *, dtype: str | torch.dtype | None = None, device: torch.device | str = "cpu"
) -> Vlm:
    """Load a VLM and its processor in evaluation mode.

    spec: a folder with config.json, a hub id, "embedded" or "embedded-llava". dtype: None or "auto" for that
    of the checkpoint, else float32, bfloat16 or float16. Only a hub id makes anything go over the network.
    Raises UsageError if there is no such model, it lacks weights or a processor, or it is no VLM.
    """
    source = str(spec)
    place = find(spec)
    options = {"local_files_only": isinstance(place, Path), "trust_remote_code": False}
    with explained(source):
        config = AutoConfig.from_pretrained(place, **options)
        model, loaded = model_class(config).from_pretrained(
            place, dtype=dtype or "auto", output_loading_info=True, **options
        )
    if missing := sorted(loaded["missing_keys"]):
        raise UsageError(
            f"{source} lacks {len(missing)} weights of a {type(model).__name__} (such as {missing[0]}): "
            "give a complete checkpoint."
        )
    if unknown := sorted(loaded["unexpected_keys"]):
        raise UsageError(
            f"{source} holds {len(unknown)} weights that a {type(model).__name__} of its config.json has no place "
            f"for (such as {unknown[0]}), and they would be lost: make config.json and weights agree."
        )
    find_anatomy(model)
    with explained(source):
        processor = AutoProcessor.from_pretrained(place, **options)
        folder = companions_folder(place)
    if not hasattr(processor, "image_processor"):
        raise UsageError(
            f"{source} has no processor for images: save the model's processor in the same folder."
        )
    return Vlm(model.to(device).eval(), processor, source, folder)


def model_class(config: Any) -> Any:
    """The transformers class that a checkpoint was saved from, or the one made for such configs."""
    for name in getattr(config, "architectures", None) or ():
        if (found := getattr(transformers, name, None)) is not None:
            return found
    known = type(config) in AutoModelForImageTextToText._model_mapping
    return AutoModelForImageTextToText if known else AutoModel


@contextmanager
def explained(source: str) -> Iterator[None]:
    """Turns what transformers and the hub say into one sentence."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = next(
            (line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__
        )
        reason = reason.rstrip(".:")
        if "custom code" in reason:
            raise UsageError(
                f"{source} brings Python code of its own, which ressa never runs: give a checkpoint of a family "
                "that transformers itself knows."
            ) from error
        if Path(source).is_dir() or source in MODELS:
            raise UsageError(
                f"{source} cannot be loaded ({reason}): give a complete checkpoint of a family that this "
                "version of transformers knows."
            ) from error
        if HF_HUB_OFFLINE:
            raise UsageError(
                f"{source} is neither a folder nor in the local cache, and HF_HUB_OFFLINE is set: "
                "give a folder with config.json or 'embedded', or unset that to fetch it from the hub."
            ) from error
        raise UsageError(
            f"{source} is no folder and cannot be fetched from the hub ({reason}): "
            "give a folder with config.json, another hub id, or 'embedded'."
        ) from error
