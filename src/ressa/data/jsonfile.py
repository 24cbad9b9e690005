"""Reading the JSON files of public datasets, with one clear sentence when a file is not what it should be."""

import json
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ressa.errors import UsageError

LARGEST = 4 * 2**30  # bytes; GQA's largest question files have about one


def read_json(path: str | Path) -> Any:
    """The content of a JSON file in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Raises UsageError when it is missing, no regular file, larger than `LARGEST`, not JSON, or nested too deeply.
    """
    path = Path(path)
    try:
        return json.loads(_bytes(path))
    except RecursionError:
        raise UsageError(
            f"{path} is nested too deeply to be a data set's: download or write it again."
        ) from None
    except MemoryError:
        raise UsageError(f"{path} needs more memory than there is: split it up.") from None
    except UsageError:
        raise
    except ValueError as error:  # also a number of too many digits, and what is no Unicode
        raise UsageError(
            f"{path} is not valid JSON ({str(error)[:200]}): download or write it again."
        ) from None


def _bytes(path: Path) -> bytes:
    """The file's content. Raises UsageError when it is missing, no regular file or larger than `LARGEST`."""
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise UsageError(f"{path} is a folder: name the JSON file in it.")
        if not stat.S_ISREG(found.st_mode):
            raise UsageError(f"{path} is a pipe or a device: name a JSON file.")
        if found.st_size > LARGEST:
            raise UsageError(
                f"{path} has {found.st_size:,} bytes, and at most {LARGEST:,} are read: split it up."
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist: put the file there or name another one.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): check its name and rights.") from None


@contextmanager
def expecting(what: str, path: str | Path) -> Iterator[None]:
    """Turn the errors of walking through JSON of another shape into a UsageError."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        detail = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"{path} is not in the format of {what} ({detail}): give such a file.") from None


def lists(path: str | Path, what: str, *names: str) -> list[list[Any]]:
    """The lists of these names that a file of the format `what` holds."""
    content = read_json(path)
    with expecting(what, path):
        found = [content[name] for name in names]
        for name, value in zip(names, found, strict=True):
            if not isinstance(value, list):
                raise TypeError(f"'{name}' is no list")
    return found


def entries(path: str | Path, what: str) -> list[Any]:
    """The list that a file of the format `what` is."""
    content = read_json(path)
    with expecting(what, path):
        if not isinstance(content, list):
            raise TypeError("it is no list")
    return content


def read_lines(path: str | Path) -> list[Any]:
    """The values of a file with one JSON value a line. Raises UsageError as `read_json` does, naming the line."""
    found = []
    for number, line in enumerate(_text(Path(path)).splitlines(), 1):
        if line.strip():
            try:
                found.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise UsageError(
                    f"{path} is not valid JSON in line {number} ({str(error)[:200]}): download or write it again."
                ) from None
    return found


def _text(path: Path) -> str:
    try:
        return _bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is no text in UTF-8 ({error.reason}): download or write it again."
        ) from None
