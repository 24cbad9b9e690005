"""The names that a packed folder is known by; docs/format.md describes it."""

import json
from pathlib import Path

METHOD = "ressa"  # quantization_config.quant_method in config.json
VERSION = 1
# The tensors of a packed layer: what its weight's key ends in, and what the keys beside it end in.
WEIGHT, POSITIONS, SHAPE = ".weight", ".positions", ".shape"
# Where ressa is not imported, transformers stops at the first packed weight, whose shape is not the layer's, and
# lists what it does not know. The name of an empty tensor is then the line that says what to do.
MARKER = "packed by ressa: `pip install ressa` and `import ressa` before from_pretrained"


def beside(key: str) -> tuple[str, str]:
    """The keys of a packed weight's positions and shape, from that of its values."""
    stem = key.removesuffix(WEIGHT)
    return f"{stem}{POSITIONS}", f"{stem}{SHAPE}"


def is_packed(folder: str | Path) -> bool:
    """Whether a folder's config says that its weights are packed."""
    try:
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        return config["quantization_config"]["quant_method"] == METHOD
    except (OSError, ValueError, KeyError, TypeError):
        return False
