"""One pass of the vision tower for each distinct image of a batch, however many of its rows show it."""

import inspect
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def shared_vision(model: nn.Module) -> Iterator["SharedVision"]:
    """While active, a batch whose images `show` has named sends each distinct image through the tower once.

    Serves families whose vision tower takes one row of pixels an image (or equal rows in a line, as beam
    search makes them); others run as they are. What may be shared is checked on the pixels.
    """
    tower = _vision_tower(model)
    sharing = SharedVision()
    if tower is None:
        yield sharing
        return
    before = vars(tower).get("forward")  # someone else's wrapper, if any
    plain = tower.forward
    takes = list(inspect.signature(plain).parameters)

    def forward(*args: Any, **kwargs: Any) -> Any:
        return sharing.run(plain, dict(zip(takes, args, strict=False)) | kwargs)

    tower.forward = forward  # type: ignore[method-assign]
    try:
        yield sharing
    finally:
        del tower.forward  # the class's own method shows again
        if before is not None:
            tower.forward = before  # type: ignore[method-assign]


class SharedVision:
    """Knows which rows of the present batch show the same image."""

    def __init__(self) -> None:
        self._first: Tensor | None = None  # (distinct,) the first row of each image
        self._image: Tensor | None = None  # (rows,) which of those it shows
        self._apart: bool | None = (
            None  # whether the tower's outputs have a row an image; None: not known yet
        )

    def show(self, images: Sequence[Hashable]) -> None:
        """Name the image of every row of the next batch."""
        numbers: dict[Hashable, int] = {}
        self._image = torch.tensor([numbers.setdefault(image, len(numbers)) for image in images])
        firsts = {number: row for row, number in reversed(list(enumerate(self._image.tolist())))}
        self._first = torch.tensor([firsts[number] for number in range(len(numbers))])

    def run(self, plain: Any, inputs: dict[str, Any]) -> Any:
        """The tower's outputs for all rows, from one pass over the distinct ones."""
        pixels = inputs.get("pixel_values")
        if self._first is None or self._image is None or not isinstance(pixels, Tensor):
            return plain(**inputs)
        if self._apart is False:
            return plain(**inputs)
        rows, copies = len(pixels), len(pixels) // len(self._image)
        if len(self._first) == rows or rows != copies * len(self._image):
            return plain(**inputs)
        first = (self._first * copies).to(pixels.device)
        image = self._image.repeat_interleave(copies).to(pixels.device)
        if not torch.equal(pixels[first][image], pixels):  # the rows of an image are its tiles, say
            return plain(**inputs)
        if self._apart is None and len(first) == 1:
            first = first.repeat(2)  # one row alone would not tell
        chosen = {key: _take(value, first, rows) for key, value in inputs.items()}
        output = plain(**chosen)
        if self._apart is None:  # Pixtral lays the patches of all images side by side, in one row
            self._apart = all(len(each) == len(first) for each in _tensors(output) if each.dim() > 1)
        return _take(output, image, len(first)) if self._apart else plain(**inputs)


def _take(value: Any, index: Tensor, rows: int) -> Any:
    """Index every tensor of `rows` rows, within tuples, lists and mappings (model outputs) too."""
    if isinstance(value, Tensor):
        return value[index] if value.ndim and len(value) == rows else value
    if isinstance(value, Mapping):
        return type(value)(**{key: _take(inner, index, rows) for key, inner in value.items()})
    if isinstance(value, tuple | list):
        return type(value)(_take(inner, index, rows) for inner in value)
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from _tensors(inner)


def _vision_tower(model: Any) -> nn.Module | None:
    if not hasattr(model, "get_encoder"):
        return None
    try:
        tower = model.get_encoder(modality="image")
    except (TypeError, AttributeError, ValueError, NotImplementedError):
        return None
    return tower if isinstance(tower, nn.Module) and tower is not model else None
