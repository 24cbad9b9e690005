"""What a file begins with, for datasets whose files may have any name."""

from functools import lru_cache
from pathlib import Path

ENOUGH = 4096


def beginning(file: Path) -> str:
    """The first characters of a text file; nothing where it cannot be read, which is told when it is used."""
    try:
        found = file.stat()
    except OSError:
        return ""
    return _beginning(file, found.st_mtime_ns, found.st_size) if file.is_file() else ""


@lru_cache(maxsize=4096)
def _beginning(file: Path, changed: int, size: int) -> str:
    try:
        with file.open("rb") as stream:
            return stream.read(ENOUGH).decode("utf-8-sig", errors="replace")
    except OSError:
        return ""
