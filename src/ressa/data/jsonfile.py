"""Reading the JSON files of public datasets, with one clear sentence when a file is not what it should be."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ressa.errors import UsageError


def read_json(path: str | Path) -> Any:
    """The content of a JSON file. Raises UsageError when it is missing or not JSON."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist: put the file there or name another one.") from None
    except IsADirectoryError:
        raise UsageError(f"{path} is a folder: name the JSON file in it.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid JSON ({error}): download or write it again.") from None


@contextmanager
def expecting(what: str, path: str | Path) -> Iterator[None]:
    """Turn the errors of walking through JSON of another shape into a UsageError."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        detail = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"{path} is not in the format of {what} ({detail}): give such a file.") from None


def at_least_one(items: list, what: str, path: str | Path) -> list:
    """`items`, or a UsageError when there are none."""
    if not items:
        raise UsageError(f"{path} has no {what}: give a file that has some.")
    return items
