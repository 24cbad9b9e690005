"""One process at a time writes an output. The lock is the system's own: it goes with the process that holds it."""

import errno
import fcntl
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ressa.errors import RunError
from ressa.files import target, told


@contextmanager
def held(path: str | Path, *, wait: bool = False) -> Iterator[None]:
    """Within this context no other process (or part of this one) that asks for it holds the lock of `path`.

    It lies in `.NAME.lock` beside the path and is gone afterwards. wait: wait for who holds it. Otherwise raises
    RunError, which says who that is.
    """
    path = target(path)
    lock = path.with_name(f".{path.name}.lock")
    with _parents(path.parent):
        with told(path):
            file = _taken(lock, path, wait)
        try:
            file.write(json.dumps(_myself()))
            file.flush()
            yield
        finally:
            lock.unlink(missing_ok=True)
            file.close()


def _taken(lock: Path, path: Path, wait: bool) -> IO[str]:
    while True:
        file = open(lock, "a+", encoding="utf-8")  # noqa: SIM115 (it is closed when the lock is given back)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            holder = _said(file.read())
            file.close()
            raise RunError(
                f"{path} is being written by {holder}: wait until that ends, or choose another output."
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                file.close()
                raise
            # a file system without locks
        if _is(file, lock):
            file.truncate(0)
            return file
        file.close()  # who held it has just taken it away


def _is(file: IO[str], lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), lock.stat())
    except FileNotFoundError:
        return False


def _myself() -> dict[str, str | int]:
    program = Path(sys.argv[0]).name
    words = ["ressa" if program == "__main__.py" else program, *sys.argv[1:]]
    return {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "command": shlex.join(words),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _said(text: str) -> str:
    try:
        note = json.loads(text)
        where = "" if note["host"] == socket.gethostname() else f" on {note['host']}"
        return f"process {note['process']}{where} ({note['command']}, since {note['since']})"
    except (ValueError, KeyError, TypeError):  # it has taken the lock a moment ago
        return "another process"


@contextmanager
def _parents(folder: Path) -> Iterator[None]:
    """The folder is there; what had to be made for that and is still empty goes again."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    with told(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for each in made:
            try:
                each.rmdir()
            except OSError:
                break
