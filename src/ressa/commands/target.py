"""What may happen to the folder a command writes: no overwriting unasked, no doing again what is done."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ressa.checkpoint import MANIFEST, Manifest, read_manifest
from ressa.errors import UsageError
from ressa.files import write_json
from ressa.processes import is_first


def refuse_overlap(output: Path, *inputs: str | Path | None) -> None:
    """Raises UsageError if writing `output` would replace one of the folders that the run reads."""
    written = output.resolve()
    for name in inputs:
        if name is not None and Path(name).exists() and Path(name).resolve().is_relative_to(written):
            raise UsageError(f"{output} holds {name}, which is read: choose another --output.")


def finished(output: Path, identity: dict[str, Any], *, force: bool) -> Manifest | None:
    """The manifest at `output` if it is this very recipe's result; None if nothing is there, or on `force`.

    identity: `Recipe.identity()`, perhaps with more keys that decide the result.
    Raises UsageError when something else is there.
    """
    if force or not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    if not (output / MANIFEST).is_file():
        raise UsageError(f"{output} exists already: choose another --output, or replace it with --force.")
    manifest = read_manifest(output)
    if manifest.recipe != identity:
        changed = [key for key in identity if manifest.recipe.get(key) != identity[key]]
        raise UsageError(
            f"{output} was made by another recipe ({', '.join(changed) or 'another command'}): "
            "choose another --output, or replace it with --force."
        )
    return manifest


@contextmanager
def work_folder(output: Path, identity: dict[str, Any], *, force: bool) -> Iterator[Path]:
    """The hidden folder beside `output` in which an interrupted run leaves what it has done.

    It is emptied first if it was begun with another identity, or on `force`. It goes when the block ends. After an
    interruption or any error, wrong usage too, it stays for the next run if anything was done in it: a sample
    that cannot be read is mended, and hours of training are not done again. Of several processes the first does
    all of this.
    """
    folder = output.with_name(f".{output.name}.partial")
    if not is_first():
        yield folder
        return
    note = folder / "recipe.json"
    begun = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else None
    if force or begun != identity:
        shutil.rmtree(folder, ignore_errors=True)
        write_json(note, identity)
    try:
        yield folder
    except UsageError:
        if not any(path.is_file() and path != note for path in folder.rglob("*")):
            shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)
