"""WebDataset shards: tar archives of pictures with a text or a record under the same key, as img2dataset writes CC3M.

`00000.tar` holds `000000000.jpg`, `000000000.txt` and `000000000.json`. Nothing is unpacked: a picture is read where
it lies.
"""

import json
import os
import random
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ressa.data.faults import collecting
from ressa.data.formats.part import Part, Reading
from ressa.data.formats.records import kind_of, record, task_of
from ressa.data.picture import PackedPicture
from ressa.data.sample import CaptionedImage, Sample
from ressa.data.tree import PICTURES, Tree, split_of
from ressa.data.values import LONGEST, fields, text
from ressa.errors import UsageError

TEXTS = (".txt", ".caption")
LARGEST_RECORD = 2**24  # bytes
SPARE = 4  # times as many samples as will be drawn are read, so that a drawing is not one shard's

Members = dict[str, tarfile.TarInfo]  # suffix → member, of one key


def find(tree: Tree) -> Iterator[Part]:
    by_split: dict[str, list[Path]] = {}
    for file in tree.files(".tar"):
        by_split.setdefault(split_of(file, tree.path), []).append(file)
    for split, files in by_split.items():
        if task := _task(files[0]):
            yield Part(task, split, "tar shards", tuple(sorted(files)), _read, own="shards")


def _task(file: Path) -> str | None:
    """What the samples of a shard are, by its first one; None where it holds no pictures."""
    try:
        with tarfile.open(file, "r:") as archive:
            for _, members in _grouped(archive):
                if not PICTURES & members.keys():
                    return None
                if members.keys() & set(TEXTS):
                    return "caption"
                if ".json" in members and (kind := kind_of(_json(archive, members[".json"]))):
                    return task_of(kind, "")
                return None
    except (tarfile.TarError, OSError, UsageError, EOFError):
        return None
    return None


def _read(reading: Reading, part: Part) -> Sequence[Sample]:
    files = list(part.files)
    if reading.enough is not None:
        random.Random(reading.seed).shuffle(files)
    found: list[Sample] = []
    with collecting(reading.faults) as collected:
        for file in files:
            if reading.enough is not None and len(found) >= SPARE * reading.enough:
                break
            without = 0
            try:
                with tarfile.open(reading.inside(file), "r:") as archive:
                    for key, members in _grouped(archive):
                        with collected.at(file, key):
                            sample = _sample(reading, file, archive, key, members)
                            if sample is None:
                                without += 1
                            else:
                                found.append(sample)
            except (tarfile.TarError, OSError, EOFError) as error:
                collected.add(file, "", f"it is no whole tar archive ({error})")
            collected.leave_out(file, without, "keys without a picture or a text")
        return collected.some(found, "pictures with texts", part.files[0])


def _grouped(archive: tarfile.TarFile) -> Iterator[tuple[str, Members]]:
    """The members of each key, which stand together: all of a name before the first dot of its last part."""
    key, members = "", Members()
    for member in archive:
        if not member.isfile():
            continue
        place, name = os.path.split(member.name)
        stem, dot, suffix = name.partition(".")
        found = f"{place}/{stem}" if place else stem
        if found != key and members:
            yield key, members
            members = {}
        key = found
        members[dot + suffix.lower()] = member
    if members:
        yield key, members


def _sample(
    reading: Reading, file: Path, archive: tarfile.TarFile, key: str, members: Members
) -> Sample | None:
    picture = next((member for suffix, member in members.items() if suffix in PICTURES), None)
    words = next((member for suffix, member in members.items() if suffix in TEXTS), None)
    image = None if picture is None else PackedPicture(file, picture.name, picture.offset_data, picture.size)
    if words is not None:
        if image is None:
            return None
        said = " ".join(_content(archive, words, 4 * LONGEST).decode("utf-8", errors="replace").split())
        return (
            CaptionedImage(image, reading.caption, None, key, (text(said, "the caption"),)) if said else None
        )
    if ".json" not in members:
        return None

    def find(_: Any) -> PackedPicture:
        if image is None:
            raise UsageError("its picture is missing")
        return image

    entry = _json(archive, members[".json"])
    shown = {**entry, "image": key} if image is not None else entry
    return record(reading, shown, find, key)


def _json(archive: tarfile.TarFile, member: tarfile.TarInfo) -> dict[str, Any]:
    try:
        return fields(json.loads(_content(archive, member, LARGEST_RECORD)), member.name)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{member.name} is not valid JSON ({str(error)[:100]})") from None


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, most: int) -> bytes:
    if member.size > most:
        raise UsageError(f"{member.name} has {member.size:,} bytes, and at most {most:,} are read")
    stream = archive.extractfile(member)
    return b"" if stream is None else stream.read()
