"""From what an annotation file calls an image (a file name or a number) to the file."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from ressa.errors import UsageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class ImageFolder:
    """The image files of one folder.

    `names` maps an image id to its file name, as COCO's `images` list does. An id that is not in it is looked
    for as a file's stem ("2354786" → 2354786.jpg, GQA) and as the number at a stem's end
    (1268 → COCO_val2014_000000001268.jpg, VQAv2 and OK-VQA).
    """

    def __init__(self, path: str | Path, names: Mapping[str, str] | None = None) -> None:
        self.path = Path(path)
        self.names = dict(names or {})
        if not self.path.is_dir():
            raise UsageError(f"image folder {self.path} does not exist: put the images there.")

    def named(self, name: str) -> Path:
        """The file with this name. Raises UsageError when it is not there."""
        if name not in self._files:
            raise UsageError(f"image {self.path / name} does not exist: the annotations name it, so add it.")
        return self.path / name

    def numbered(self, image_id: int | str) -> Path:
        """The file of this image id. Raises UsageError when there is none."""
        key = str(image_id)
        if key in self.names:
            return self.named(self.names[key])
        name = self._stems.get(key) or (key.isdigit() and self._numbers.get(int(key))) or None
        if name is None:
            raise UsageError(
                f"{self.path} has no image for id {image_id}: the annotations name it, so add it."
            )
        return self.path / name

    @cached_property
    def _files(self) -> set[str]:
        return {entry.name for entry in self.path.iterdir() if entry.suffix.lower() in SUFFIXES}

    @cached_property
    def _stems(self) -> dict[str, str]:
        return {Path(name).stem: name for name in sorted(self._files)}

    @cached_property
    def _numbers(self) -> dict[int, str]:
        numbers = {}
        for stem, name in self._stems.items():
            digits = stem[len(stem.rstrip("0123456789")) :]
            if digits:
                numbers[int(digits)] = name
        return numbers
