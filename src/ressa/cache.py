"""Where ressa keeps what it can make again: the embedded scenes, a model's own texts, the answers of evaluations that
were cut short."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$RESSA_CACHE`, else `~/.cache/ressa`. It need not be there yet."""
    return Path(os.environ.get("RESSA_CACHE", Path.home() / ".cache" / "ressa"))
