"""Where a model is, from what a user calls it; known before PyTorch is imported."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ressa.embedded import MODELS, model_folder
from ressa.errors import UsageError

CONFIG = "config.json"
ADAPTER = "adapter_config.json"
LONGEST_CONFIG = 16 << 20  # bytes; those of real models have some thousand


def find(spec: str | Path) -> Path | str:
    """The folder that a spec names, or the hub id that it is.

    Raises UsageError if it can be neither, or if the folder is an adapter's or has no config that can be read.
    """
    if spec in MODELS:
        spec = model_folder(str(spec))
    path = Path(spec).expanduser()
    if path.is_dir():
        if (path / ADAPTER).is_file():  # transformers would load it with the model and save it alone
            raise UsageError(refusal_of_adapter(spec))
        if not (path / CONFIG).is_file():
            raise UsageError(f"{spec} is no model: it has no config.json; give the folder of a checkpoint.")
        read_config(path)
        return path
    is_id = isinstance(spec, str) and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", spec)
    if not is_id or path.exists() or path.parent.exists():
        raise UsageError(f"No such folder: {spec}; give a folder with config.json, a hub id, or 'embedded'.")
    return str(spec)


def refusal_of_adapter(spec: str | Path) -> str:
    """What to tell who gives an adapter."""
    return (
        f"{spec} holds an adapter ({ADAPTER}): merge it first (PEFT's merge_and_unload) and give the folder of the "
        f"merged model, or take {ADAPTER} out of it."
    )


def read_config(folder: Path) -> dict[str, Any]:
    """A model's config.json. Raises UsageError if that is none, as far as can be seen from the file itself."""
    path = folder / CONFIG
    try:
        if path.stat().st_size > LONGEST_CONFIG:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read ({error}): make or fetch it anew.") from None
    if not isinstance(config, dict):
        raise UsageError(f"{path} is no model's config (it has to be a JSON object): make or fetch it anew.")
    names, kind = config.get("architectures"), config.get("model_type", "")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise UsageError(
            f"{path} has architectures {json.dumps(names)[:100]}: make that a list of class names."
        )
    if not isinstance(kind, str):
        raise UsageError(f"{path} has the model_type {json.dumps(kind)[:100]}: make that a family's name.")
    for key, value in _sizes(config):
        if value < 0:  # some models load with such sizes, and fail much later
            raise UsageError(f"{path} has {key} {value}: make that a size.")
    return config


def _sizes(config: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """The sizes in a config and in the configs of its parts; −1 of a chunk is none (Phi-4-multimodal)."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _sizes(value)
        elif isinstance(value, int) and re.fullmatch(
            r"(?!chunk)\w+_size|num_\w*(heads|layers)|d_\w+|\w*_dim", key
        ):
            yield key, value


def lasting_name(spec: str) -> str:
    """What a model is called wherever a program is started: a folder by its whole path, else as it is."""
    path = Path(spec).expanduser()
    return str(path.resolve()) if spec not in MODELS and path.is_dir() else spec
