"""Opening images, each once while it stays in a small cache."""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ressa.data.sample import Sample
from ressa.errors import UsageError


def open_image(path: Path) -> Image.Image:
    """Read an image file as RGB. Raises UsageError when it is missing or not an image."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise UsageError(
            f"image {path} does not exist: put it there or correct the dataset's image folder."
        ) from None
    except (UnidentifiedImageError, OSError) as error:
        raise UsageError(f"image {path} cannot be read ({error}): replace the file.") from None


class ImageCache:
    """The last `size` images opened: the questions about one image stand together, so a few suffice."""

    def __init__(self, size: int = 64) -> None:
        self._size = size
        self._images: OrderedDict[Path, Image.Image] = OrderedDict()

    def load(self, samples: Sequence[Sample]) -> list[Image.Image]:
        """The RGB images of the samples, in order; one object for each distinct path."""
        return [self._load(sample.image) for sample in samples]

    def _load(self, source: Path | Image.Image) -> Image.Image:
        if isinstance(source, Image.Image):
            return source if source.mode == "RGB" else source.convert("RGB")
        if source in self._images:
            self._images.move_to_end(source)
        else:
            self._images[source] = open_image(source)
            if len(self._images) > self._size:
                self._images.popitem(last=False)
        return self._images[source]
