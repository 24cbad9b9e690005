"""Writing so that nothing is ever half-written: a temporary name first, flushed to the disk, then a rename.

A link as the target stays a link: what it points to is written.
"""

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ressa.errors import RunError, UsageError
from ressa.warned import warn


@contextmanager
def fresh_directory(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling folder that becomes `path` when the block ends without an error.

    An existing folder at `path` is replaced only at that moment. On an error the temporary folder is removed.
    Raises UsageError, before anything is done, for a `path` that is something else (a file, a device), and RunError
    where the system does not let it write (`write_failure`).
    """
    path = target(path)
    check_folder(path)
    with told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(path)
        work = _beside(path, "tmp")
        work.mkdir()
    try:
        with told(path):
            yield work
            settle(work)
            if path.exists():
                old = _beside(path, "old")
                path.rename(old)
                work.rename(path)
                _flush(path.parent)
                shutil.rmtree(old)
            else:
                work.rename(path)
            _flush(path.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def check_folder(path: Path) -> None:
    """Raises UsageError if something is at `path` that is no folder, for a folder never takes its place."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file, and the result is a folder: choose another --output.")


@contextmanager
def fresh_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling that becomes the file `path` when the block ends without an error.

    Raises UsageError for a `path` that is no file (a folder, a device, which renaming would take away), and
    RunError where the system does not let it write (`write_failure`).
    """
    path = target(path)
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is no file that could be replaced: choose another place.")
    with told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(path)
    work = _beside(path, "tmp")
    try:
        with told(path):
            yield work
            settle(work)
            work.replace(path)
            _flush(path.parent)
    finally:
        work.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in one step; a device or a pipe, which has no name to take over, is written to."""
    if Path(path).exists() and not Path(path).is_file() and not Path(path).is_dir():
        with told(Path(path)):
            Path(path).write_text(text, encoding="utf-8")
        return
    with fresh_file(path) as work:
        work.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON, indented and with a final newline, in one step."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """What an earlier run wrote to a JSON file; None if there is none, or none that is whole, which is said."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        say_damaged(path)
        return None


def say_damaged(path: Path) -> None:
    """Warn that what an earlier run left in a file cannot be gone on from."""
    warn(f"{path} is damaged, so what it held is done again.")


def target(path: str | Path) -> Path:
    """What is written when `path` is: itself, or what it links to, which need not be there yet.

    Raises UsageError for links that lead in a ring.
    """
    found = Path(os.path.realpath(path))
    if found.is_symlink():
        raise UsageError(f"{path} is one of symbolic links that lead in a ring: choose another place.")
    return found


def check_writable(path: str | Path, *, room: int = 0) -> None:
    """Find out now whether a file or folder can be made at `path`, by making and removing one beside it.

    room: bytes that will be written. Raises UsageError if the place cannot be written to or has less room.
    Nothing is left behind, not even folders above `path` that are not there yet.
    """
    path = target(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        return  # a device or a pipe
    place = path.parent
    while not place.exists():
        place = place.parent
    try:
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
        with tempfile.TemporaryFile(dir=place) as file:  # without a name, so that a kill leaves nothing
            file.write(b"\0")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}): choose another place.") from error
    free = shutil.disk_usage(place).free
    if free < room:
        raise UsageError(
            f"{path} needs {_gigabytes(room)} and {place} has {_gigabytes(free)} left: make room, or choose "
            "another place."
        )


def write_failure(error: BaseException, path: Path) -> str | None:
    """One sentence for an error that means that the system does not let us write; None for any other.

    safetensors and torch.save say such things in errors of their own.
    """
    code = getattr(error, "errno", None) if isinstance(error, OSError) else None
    if type(error).__name__ == "SafetensorError" and (found := re.search(r"os error (\d+)", str(error))):
        code = int(found[1])
    if isinstance(error, RuntimeError) and re.search("PytorchStreamWriter|unexpected pos", str(error)):
        code = errno.ENOSPC
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return (
            f"There is no room left to write {path} ({os.strerror(code)}): make room and start the same command "
            "again, it goes on where it can."
        )
    if code in (
        errno.EIO,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ENAMETOOLONG,
    ):
        what = getattr(error, "filename", None) or path
        return (
            f"The system refused {what} ({os.strerror(code)}): see to that and start the same command again."
        )
    return None


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turns what the system says against writing `path` into a RunError."""
    try:
        yield
    except Exception as error:
        if (sentence := write_failure(error, path)) is None:
            raise
        raise RunError(sentence) from error


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{ending}")


def _clear_leftovers(path: Path) -> None:
    """What killed processes left beside `path`: what was moved aside comes back, what is unfinished goes."""
    # The whole name, since that of another output may begin with this one's.
    ours = re.compile(rf"\.{re.escape(path.name)}\.(\d+)\.(old|tmp)")
    for left in list(path.parent.iterdir()):
        if (match := ours.fullmatch(left.name)) is None:
            continue
        process, ending = int(match[1]), match[2]
        if ending == "old" and not path.exists():
            left.rename(path)
        elif process != os.getpid() and _alive(process):
            continue
        elif left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def settle(path: Path) -> None:
    """Everything at or below `path` is on the disk, and its files are as readable as new files are.

    safetensors makes files that only their owner can read.
    """
    mask = os.umask(0)
    os.umask(mask)
    for each in (path, *path.rglob("*")) if path.is_dir() else (path,):
        if each.is_file():
            each.chmod(0o666 & ~mask)
        _flush(each)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that flushes no folders
            raise
    finally:
        os.close(handle)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
