"""Where a model is, from what a user calls it; known before PyTorch is imported."""

import re
from pathlib import Path

from ressa.embedded import MODELS, model_folder
from ressa.errors import UsageError


def find(spec: str | Path) -> Path | str:
    """The folder that a spec names, or the hub id that it is. Raises UsageError if it can be neither."""
    if spec in MODELS:
        spec = model_folder(str(spec))
    path = Path(spec).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UsageError(f"{spec} is no model: it has no config.json; give the folder of a checkpoint.")
        return path
    is_id = isinstance(spec, str) and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", spec)
    if not is_id or path.exists() or path.parent.exists():
        raise UsageError(f"No such folder: {spec}; give a folder with config.json, a hub id, or 'embedded'.")
    return str(spec)


def lasting_name(spec: str) -> str:
    """What a model is called wherever a program is started: a folder by its whole path, else as it is."""
    path = Path(spec).expanduser()
    return str(path.resolve()) if spec not in MODELS and path.is_dir() else spec
