"""Writing so that nothing is ever half-written: a temporary name first, then a rename."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def fresh_directory(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling folder that becomes `path` when the block ends without an error.

    An existing folder at `path` is replaced only at that moment. On an error the temporary folder is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(path)
    work = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    work.mkdir()
    try:
        yield work
        if path.exists():
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            path.rename(old)
            work.rename(path)
            shutil.rmtree(old)
        else:
            work.rename(path)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _clear_leftovers(path: Path) -> None:
    """What killed processes left beside `path`: a folder moved aside comes back, an unfinished one goes."""
    for old in path.parent.glob(f".{path.name}.*.old"):
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(path)
    for work in path.parent.glob(f".{path.name}.*.tmp"):
        process = work.suffixes[-2][1:] if len(work.suffixes) > 1 else ""
        if process.isdigit() and (int(process) == os.getpid() or not _alive(int(process))):
            shutil.rmtree(work, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in one step (temporary name, then rename)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    work = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        work.write_text(text, encoding="utf-8")
        work.replace(path)
    finally:
        work.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON, indented and with a final newline, in one step."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
