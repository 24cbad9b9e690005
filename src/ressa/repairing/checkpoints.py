"""What a repair that was cut short left in its work folder, and whether it is whole.

A checkpoint is sealed when it is complete: its files are listed with their sizes and checksums, last of all. What has
no seal was cut short by a kill; what does not agree with its seal was damaged since, by a full disk or a failing one.
Neither is gone on from: the newest whole checkpoint is, or training starts again, and of damage it is said.
"""

import json
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ressa.errors import UsageError
from ressa.files import read_json, settle, write_json
from ressa.processes import is_first
from ressa.warned import warn

SEAL = "files.json"
RECORD = "repair.json"
RECONSTRUCTION = "reconstruction"
STEPS = "steps.json"  # how many a training of some minutes has


def claim(folder: Path, identity: Mapping[str, Any]) -> None:
    """Take a work folder for a run. Raises UsageError if it belongs to a run with another identity."""
    record = folder / RECORD
    known = read_json(record)
    if known is not None and known != json.loads(json.dumps(identity)):
        raise UsageError(f"{folder} holds a repair with other settings or data: choose another work folder.")
    if is_first():
        if known is None:  # nobody knows whose work it holds
            forget(folder)
        write_json(record, identity)


def forget(folder: Path) -> None:
    """Remove what the stages left in a work folder."""
    for path in (*folder.glob("checkpoint-*"), folder / RECONSTRUCTION):
        shutil.rmtree(path, ignore_errors=True)
    (folder / STEPS).unlink(missing_ok=True)


def seal(folder: Path) -> None:
    """Write down what the files of a finished checkpoint are, once they are on the disk."""
    settle(folder)
    files = {path.name: checksum(path) for path in sorted(folder.iterdir()) if path.name != SEAL}
    write_json(folder / SEAL, files)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint in a work folder; others that are newer are removed, and damage is said."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    damaged: list[str] = []
    whole: Path | None = None
    for path in sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        what = damage(path)
        if what is None:
            whole = path
            break
        if what:
            damaged.append(f"{what} of {path.name}")
        shutil.rmtree(path, ignore_errors=True)
    if damaged:
        start = "training starts again" if whole is None else f"training goes on from {whole.name}"
        warn(f"{' and '.join(damaged)} in {folder} {'is' if len(damaged) == 1 else 'are'} damaged: {start}.")
    return whole


def damage(checkpoint: Path) -> str | None:
    """The first damaged file of a checkpoint; "" if it was never finished; None if it is whole."""
    if not (checkpoint / SEAL).is_file():
        return ""
    try:
        files = dict(json.loads((checkpoint / SEAL).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return SEAL
    return next((name for name, known in files.items() if checksum(checkpoint / name) != known), None)


def checksum(path: Path) -> list[int] | None:
    """Size and CRC-32 of a file; None if it cannot be read."""
    crc = size = 0
    try:
        with open(path, "rb") as file:
            while part := file.read(1 << 20):
                crc, size = zlib.crc32(part, crc), size + len(part)
    except OSError:
        return None
    return [size, crc]
