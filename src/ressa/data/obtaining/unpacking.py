"""Archives of datasets: nothing leaves the folder, nothing grows beyond what was announced, links are not made.

What is unpacked goes to a hidden folder first and takes its place, beside what is there, when the archive is whole.
"""

import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from ressa.errors import RunError, UsageError
from ressa.files import check_writable, told, write_failure
from ressa.progress import bar

CHUNK = 2**20  # bytes
RATIO = 200  # of what is unpacked to the archive; annotation files come to 20
SPARE = 2**30  # bytes that any archive may unpack to
MOST = 10_000_000  # entries
ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz")


def is_archive(path: Path) -> bool:
    return path.name.lower().endswith(ENDINGS)


def unpack(archive: str | Path, folder: str | Path) -> int:
    """Unpack a zip or tar archive into a folder; returns how many files it held.

    Files that are there by the same names are replaced. Raises RunError, the folder being as it was, for an archive
    that is damaged, whose entries lead out of the folder or are links or devices, that holds more than 10 million
    entries or unpacks to more than 200 times its size, and where there is no room.
    """
    archive, folder = Path(archive), Path(folder)
    work = folder / f".{archive.name}.unpacking"
    shutil.rmtree(work, ignore_errors=True)
    try:
        with told(folder), _readable(archive):
            work.mkdir(parents=True)
            count = 0
            room = SPARE + RATIO * archive.stat().st_size
            with bar(f"Unpacking {archive.name}", None) as progress:
                for name, size, stream in _entries(archive):
                    count += 1
                    room -= size
                    if room < 0 or count > MOST:
                        raise RunError(
                            f"{archive} unpacks to far more than its size tells: it is no dataset's."
                        )
                    if count == 1 or count % 1000 == 0:
                        check_writable(work, room=size)
                    _write(archive, work / _safe(archive, name), size, stream)
                    progress.advance()
            _merge(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return count


def _entries(archive: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Name, announced size and content of each file. Folders are passed over, links refused."""
    if archive.name.lower().endswith(".zip"):
        with zipfile.ZipFile(archive) as zipped:
            for entry in zipped.infolist():
                if entry.is_dir():
                    continue
                kind = stat.S_IFMT(entry.external_attr >> 16)
                if kind not in (0, stat.S_IFREG):
                    raise RunError(
                        f"{archive} holds a link or device, {entry.filename!r}: it is no dataset's."
                    )
                with zipped.open(entry) as stream:
                    yield entry.filename, entry.file_size, stream
        return
    with tarfile.open(archive, "r|*") as tarred:
        for member in tarred:
            if member.isdir():
                continue
            if not member.isfile():
                raise RunError(f"{archive} holds a link or device, {member.name!r}: it is no dataset's.")
            opened = tarred.extractfile(member)
            if opened is not None:
                yield member.name, member.size, opened


def _safe(archive: Path, name: str) -> PurePosixPath:
    """An entry's name as a path within the folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    parts = [part for part in path.parts if part != "."]
    leads_out = path.is_absolute() or ".." in parts or any(":" in part or "\0" in part for part in parts)
    if leads_out or not parts or any(len(part.encode()) > 255 for part in parts):
        raise RunError(
            f"{archive} holds a file that leads out of the folder, {name!r}: nothing was unpacked."
        )
    return PurePosixPath(*parts)


def _write(archive: Path, path: Path, size: int, stream: IO[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    got = 0
    with path.open("wb") as file:
        while block := stream.read(CHUNK):
            got += len(block)
            if got > size:
                raise RunError(
                    f"{archive} holds more than it announces in {path.name!r}: it is no dataset's."
                )
            file.write(block)
    if got < size:
        raise EOFError(f"{path.name} ends early")


def _merge(work: Path, folder: Path) -> None:
    """Move everything into place, beside what is there."""
    for below, _, names in os.walk(work):
        place = folder / Path(below).relative_to(work)
        place.mkdir(exist_ok=True)
        for name in names:
            os.replace(Path(below) / name, place / name)


@contextmanager
def _readable(archive: Path) -> Iterator[None]:
    """What is wrong with the archive itself, as a sentence. The libraries raise whatever they stumble over."""
    try:
        yield
    except (RunError, UsageError):
        raise
    except FileExistsError as error:
        raise RunError(f"{error.filename} is a file where {archive} has a folder: move it away.") from None
    except Exception as error:
        if write_failure(error, archive) is not None:
            raise
        if "encrypted" in str(error):
            raise RunError(f"{archive} cannot be unpacked: it is encrypted.") from None
        raise RunError(
            f"{archive} is damaged ({str(error)[:200]}): remove it, and download it again."
        ) from None
