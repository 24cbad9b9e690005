"""An image processor that does not process an image again while it remembers it."""

import copy
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature

Row = dict[str, Tensor]


def with_memory(processor: Any) -> Any:
    """A copy of a processor whose image processor remembers; the given one stays as it is."""
    processor = copy.copy(processor)
    processor.image_processor = RememberingImageProcessor(processor.image_processor)
    return processor


class RememberingImageProcessor:
    """Stands in for an image processor; the last `size` images keep their processed rows.

    Nine questions about one image then cost one resize. It serves families whose every output has one row
    an image; where outputs depend on the batch (patches packed together, padding to the largest image), the
    wrapped processor is simply called.
    """

    def __init__(self, wrapped: Any, size: int = 64) -> None:
        self._wrapped = wrapped
        self._size = size
        # An image is known by its id(), as long as it lives; it is not kept alive, as it may be large.
        self._memory: OrderedDict[int, tuple[weakref.ref[Image.Image], Row]] = OrderedDict()
        self._separable = True

    def __reduce__(self) -> tuple[Any, ...]:
        """What goes to another process, a data loader's: the memory stays."""
        return type(self), (self._wrapped, self._size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_wrapped"], name)

    def __call__(self, images: Any, **options: Any) -> BatchFeature:
        flat = _flat(images)
        nested = isinstance(images[0], list) if flat else False
        rows = self._rows(flat, nested, options) if flat and self._separable else None
        joined = _join(rows) if rows else None
        if joined is None:
            return self._wrapped(images, **options)
        return joined

    def _rows(self, images: list[Image.Image], nested: bool, options: dict[str, Any]) -> list[Row] | None:
        """One processed row for each image, or None where the outputs cannot be taken apart."""
        new = {id(image): image for image in images if not self._knows(image)}
        if new:
            given = [[image] if nested else image for image in new.values()]
            rows = _split(self._wrapped(given, **options), len(new))
            if rows is None:
                self._separable = False
                return None
            for (key, image), row in zip(new.items(), rows, strict=True):
                self._memory[key] = (weakref.ref(image), row)
        found = []
        for image in images:
            self._memory.move_to_end(id(image))
            found.append(self._memory[id(image)][1])
        while len(self._memory) > self._size:
            self._memory.popitem(last=False)
        return found

    def _knows(self, image: Image.Image) -> bool:
        return id(image) in self._memory and self._memory[id(image)][0]() is image


def _flat(images: Any) -> list[Image.Image] | None:
    """The images of a list, or of a list of one-image lists; None for anything else."""
    if not isinstance(images, Sequence):
        return None
    flat = [image[0] if isinstance(image, list) and len(image) == 1 else image for image in images]
    return flat if all(isinstance(image, Image.Image) for image in flat) else None


def _split(processed: BatchFeature, count: int) -> list[Row] | None:
    if any(not isinstance(value, Tensor) or len(value) != count for value in processed.values()):
        return None
    return [{key: value[index] for key, value in processed.items()} for index in range(count)]


def _join(rows: list[Row]) -> BatchFeature | None:
    """The batch of these rows; None where they have different shapes."""
    if any(row[key].shape != value.shape for row in rows for key, value in rows[0].items()):
        return None
    return BatchFeature({key: torch.stack([row[key] for row in rows]) for key in rows[0]})
