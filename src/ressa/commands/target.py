"""What may happen to the place a command writes: one run at a time, no overwriting unasked, no doing again."""

import functools
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ressa.checkpoint import MANIFEST, Manifest, read_manifest
from ressa.errors import UsageError
from ressa.files import check_folder, check_writable, read_json, target, told, write_json
from ressa.locks import held
from ressa.processes import is_first
from ressa.warned import warn

NOTE = "recipe.json"
NOTES = {NOTE, "pruning.json", "repair.json"}  # what a run writes before it has done anything


def one_at_a_time(run: Callable[..., Any]) -> Callable[..., Any]:
    """A command that writes its recipe's `output` runs only where that can be written, and while no other run
    does so; a second one is told who does. Raises UsageError and RunError before anything is done.

    A result that is there is only shown, which takes neither: it may lie where nothing can be written.
    """

    @functools.wraps(run)
    def locked(recipe: Any, **options: Any) -> Any:
        there = (
            recipe.output is not None and (recipe.output / MANIFEST).is_file() and not options.get("force")
        )
        if recipe.output is None or there or not is_first():
            return run(recipe, **options)
        check_writable(recipe.output)
        with held(recipe.output):
            return run(recipe, **options)

    return locked


def refuse_overlap(output: Path, *inputs: str | Path | None) -> None:
    """Raises UsageError if writing `output` would replace one of the folders that the run reads, or the one it
    is started in."""
    written = target(output)
    if Path.cwd().is_relative_to(written):
        raise UsageError(f"{output} holds the folder you are in: choose another --output.")
    for name in inputs:
        if name is not None and Path(name).exists() and Path(name).resolve().is_relative_to(written):
            raise UsageError(f"{output} holds {name}, which is read: choose another --output.")


def finished(output: Path, identity: dict[str, Any], source: str, *, force: bool) -> Manifest | None:
    """The manifest at `output` if it is this very recipe's result; None if nothing is there, or on `force`.

    identity: `Recipe.identity()`, perhaps with more keys that decide the result. source: the model that it is made
    from; if that is a folder whose weights were written later, it is said.
    Raises UsageError when something else is there.
    """
    check_folder(output)
    if force or not output.exists() or not any(output.iterdir()):
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
    begun = read_json(work_place(output) / NOTE)
    if begun is not None and begun.items() >= identity.items():  # the end of that run was cut short
        shutil.rmtree(work_place(output), ignore_errors=True)
    weights = [path for form in ("*.safetensors", "*.bin") for path in Path(source).expanduser().glob(form)]
    if any(path.stat().st_mtime > (output / MANIFEST).stat().st_mtime for path in weights):
        warn(f"{source} was written after {output} was made from it: --force makes it anew.")
    return manifest


@contextmanager
def work_folder(output: Path, identity: dict[str, Any], *, force: bool, room: int = 0) -> Iterator[Path]:
    """The hidden folder beside `output` in which an interrupted run leaves what it has done.

    It goes when the block ends. After an interruption or any error, wrong usage too, it stays for the next run
    if anything was done in it: a sample that cannot be read is mended, and hours of training are not done
    again. room: bytes that the run will write, with what is done already. force: drop the work of another
    identity. Of several processes the first does all of this.

    Raises UsageError if it holds the work of another identity and is not to drop it, or there is no room.
    """
    folder = work_place(output)
    if not is_first():
        yield folder
        return
    done = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    check_writable(
        output, room=max(0, int(1.05 * room) - done)
    )  # files of the tokenizer, a file system's own
    note = folder / NOTE
    begun = read_json(note)
    if begun is None or not _holds_work(folder) or (force and begun != identity):
        with told(folder):
            shutil.rmtree(folder, ignore_errors=True)
            write_json(note, identity)
    elif begun != identity:
        changed = [key for key in identity if begun.get(key) != identity[key]]
        raise UsageError(
            f"{output} was begun with another recipe ({', '.join(changed) or 'another command'}): go on with "
            "that, choose another --output, or drop what it has done with --force."
        )
    try:
        with told(output):
            yield folder
    except BaseException:
        if not _holds_work(folder):
            shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder)


def work_place(output: Path) -> Path:
    """Where the work folder of an output lies."""
    place = target(output)
    return place.with_name(f".{place.name}.partial")


def _holds_work(folder: Path) -> bool:
    return any(path.is_file() and path.name not in NOTES for path in folder.rglob("*"))
