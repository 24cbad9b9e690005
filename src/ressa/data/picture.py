"""Pictures that are no files of their own: members of tar archives, cells of tables."""

from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True)
class PackedPicture:
    """A picture file that lies within another file (`offset` and `size` in bytes say where), or in memory (`content`).

    Equal where it lies in the same place or, in memory, has the same bytes.
    """

    file: Path
    name: str
    offset: int = 0
    size: int = 0
    content: bytes | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.file}, {self.name}"

    def __hash__(self) -> int:
        return hash((self.file, self.name, self.offset))

    def read_bytes(self) -> bytes:
        """The picture file's bytes. Raises OSError where they cannot be read."""
        if self.content is not None:
            return self.content
        with self.file.open("rb") as file:
            file.seek(self.offset)
            found = file.read(self.size)
        if len(found) < self.size:
            raise OSError(f"{self.file} ends within it")
        return found

    def open(self) -> BinaryIO:
        return BytesIO(self.read_bytes())


def size_of(picture: Path | PackedPicture) -> int:
    """Bytes of a picture's file."""
    if isinstance(picture, Path):
        return picture.stat().st_size
    return picture.size if picture.content is None else len(picture.content)
