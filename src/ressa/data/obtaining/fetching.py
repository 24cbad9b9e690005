"""A file over HTTP, whatever the connection does: it goes on where it was, and what arrives is what was announced.

Only the standard library is used. What has come so far lies beside the file under a hidden name, with a note of what
the server said of it (`_Note`); a later run goes on from there where the server says that it is still the same file.
"""

import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from email.message import Message
from pathlib import Path
from typing import Any

from ressa.errors import RunError, UsageError
from ressa.files import check_writable, told
from ressa.progress import bar

CHUNK = 2**20  # bytes
TIMEOUT = 60.0  # seconds without a byte
TRIES = 6  # in a row that bring nothing new
LONGEST_WAIT = 60.0  # seconds between two tries
PASSING = {408, 425, 429, 500, 502, 503, 504}  # answers that may be others a little later
MEGABYTE = 10**6


@dataclass(frozen=True)
class _Note:
    """What a server said of a file: by its validator it tells whether it is still the same one."""

    url: str
    validator: str = ""  # a strong ETag, or else when it was last changed
    length: int | None = None


class _Again(Exception):
    """Something that may go well the next time."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


def fetch(
    url: str,
    path: str | Path,
    *,
    digest: str = "",
    size: int = 0,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Bring the file at an address to `path`, where it appears when it is whole.

    digest: `sha256:…` or `md5:…` of the whole file, in hexadecimal, where it is known. size: about how many bytes,
    for the progress. A download that is cut off is taken up where it was, by this run and by a later one, where the
    server says that the file is still the same; a server that cannot is asked for all of it again. Raises RunError
    where the server refuses, goes on breaking off, answers with something else (a web page, another length than
    announced, bytes with another digest), and UsageError for an address that is not HTTP or where there is no room.
    """
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{url} is no address of a file on the web: give one that begins with https://.")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part, note_file = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.part.json")
    failures, reason, most = 0, "", _size(part)
    with bar(f"Downloading {path.name} (MB)", size // MEGABYTE or None) as progress:
        progress.advance(most // MEGABYTE)
        while failures < TRIES:
            try:
                with told(path):
                    _receive(url, path, part, note_file, digest, progress)
                break
            except _Again as error:
                failures, reason = (0 if _size(part) > most else failures) + 1, str(error)
                most = max(most, _size(part))
                if failures < TRIES:
                    sleep(min(LONGEST_WAIT, error.after if error.after is not None else 2.0**failures / 2))
        else:
            raise RunError(
                f"{url} broke off {TRIES} times in a row ({reason}): start the same command again later, it goes on "
                "where it was."
            )
    _check_digest(url, part, note_file, digest)
    with told(path):
        os.replace(part, path)
    note_file.unlink(missing_ok=True)
    return path


def _receive(url: str, path: Path, part: Path, note_file: Path, digest: str, progress: Any) -> None:
    """One request, and all that it brings. Raises _Again where that is not the rest of the file."""
    note, have = _read_note(note_file, url), _size(part)
    # Without a validator nobody can say that the file is still the same, unless its digest is known.
    resumes = have > 0 and note is not None and bool(note.validator or digest)
    if have and note is not None and note.length == have and resumes:
        return
    headers = {"Accept-Encoding": "identity", "User-Agent": "ressa"}
    if resumes and note is not None:
        headers["Range"] = f"bytes={have}-"
        if note.validator:
            headers["If-Range"] = note.validator
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as answer:
            start, length = _announced(url, path, answer.status, answer.headers, have if resumes else 0)
            fresh = _Note(url, _validator(answer.headers), length)
            if start and note is not None and note.length not in (None, length):
                _forget(part, note_file)
                raise _Again("the file changed on the server")
            if length is not None:
                check_writable(path, room=length - start)
            note_file.write_text(json.dumps(asdict(fresh)), encoding="utf-8")
            _write(answer, part, start, length, progress)
    except urllib.error.HTTPError as error:
        _refused(url, error, part, note_file)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            raise
        raise _Again(_in_words(error)) from None


_OF_THE_DISK = {28, 122, 27, 5, 30, 13}  # no room, quota, too large, I/O error, read-only, no rights


def _announced(url: str, path: Path, status: int, headers: Message, have: int) -> tuple[int, int | None]:
    """Where the bytes that come begin, and how long the whole file is, by the answer's head."""
    kind = headers.get_content_type()
    if kind == "text/html" and path.suffix.lower() not in (".html", ".htm"):
        raise RunError(
            f"{url} answers with a web page and not with the file: see there whether it wants a login or has moved."
        )
    said = headers.get("Content-Length")
    length = int(said) if said is not None and said.isdecimal() else None
    if status != 206:
        return 0, length
    first, total = _content_range(headers.get("Content-Range", ""))
    if first != have or total is None or (length is not None and first + length != total):
        raise RunError(f"{url} answers with another part of the file than was asked for: try another source.")
    return first, total


def _content_range(said: str) -> tuple[int | None, int | None]:
    """`bytes 5-9/10` → 5, 10."""
    unit, _, rest = said.partition(" ")
    place, _, total = rest.partition("/")
    first, _, last = place.partition("-")
    if unit != "bytes" or not (first.isdecimal() and last.isdecimal() and total.isdecimal()):
        return None, None
    return int(first), int(total)


def _write(answer: Any, part: Path, start: int, length: int | None, progress: Any) -> None:
    """Append what comes to the first `start` bytes of what is there."""
    got, shown = start, start // MEGABYTE
    with part.open("r+b" if part.exists() else "wb") as file:
        file.seek(start)
        file.truncate()
        try:
            while block := answer.read(CHUNK):
                got += len(block)
                if length is not None and got > length:
                    file.truncate(0)
                    raise RunError(
                        f"{part.name} grew longer than the server had announced: try another source."
                    )
                file.write(block)
                progress.advance(got // MEGABYTE - shown)
                shown = got // MEGABYTE
        except http.client.IncompleteRead as error:
            file.write(error.partial)
            raise
        finally:
            file.flush()
            os.fsync(file.fileno())
    if length is not None and got < length:
        raise _Again(f"it ended after {got:,} of {length:,} bytes")


def _refused(url: str, error: urllib.error.HTTPError, part: Path, note_file: Path) -> None:
    if error.code == 416:  # what is here does not fit what is there
        _forget(part, note_file)
        raise _Again("the file changed on the server")
    if error.code in PASSING:
        after = error.headers.get("Retry-After", "") if error.headers else ""
        raise _Again(f"the server answers {error.code}", float(after) if after.isdecimal() else None)
    raise RunError(
        f"{url} cannot be had: the server answers {error.code} {error.reason}. Look whether it has moved."
    ) from None


def _check_digest(url: str, part: Path, note_file: Path, digest: str) -> None:
    if not digest:
        return
    name, _, wanted = digest.partition(":")
    found = _digest(part, name)
    if found != wanted.lower():
        _forget(part, note_file)
        raise RunError(
            f"{url} serves other bytes than it did: their {name} is {found}, not {wanted}. Nothing of it was kept."
        )


def _digest(path: Path, name: str) -> str:
    made = hashlib.new(name, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            made.update(block)
    return made.hexdigest()


def _validator(headers: Message) -> str:
    tag = headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")


def _read_note(path: Path, url: str) -> _Note | None:
    """What was noted of this address; None where there is nothing that can be read."""
    try:
        note = _Note(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return note if note.url == url else None


def _forget(part: Path, note_file: Path) -> None:
    part.unlink(missing_ok=True)
    note_file.unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _in_words(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return " ".join(str(reason).split())[:200] or type(error).__name__
