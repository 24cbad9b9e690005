"""Opening picture files, each once while it stays in a small cache; what is wrong with one, in a few words."""

import re
import stat
import threading
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from PIL import Image

from ressa.data.rgb import to_rgb
from ressa.data.sample import Picture, Sample, StoredPicture
from ressa.errors import UsageError

CACHED_PIXELS = 100_000_000  # 300 MB
RATIO = 200  # of a picture's sides; a processor that scales the shorter one makes the longer one huge
LARGE = 25_000_000  # pixels; more of such pictures at once than one could fill the memory
_one_large = threading.Lock()


class _Unusable(Exception):
    """What is wrong with a picture file, and what to do."""

    def __init__(self, problem: str, advice: str = "replace the file") -> None:
        self.problem, self.advice = problem, advice


def open_image(path: StoredPicture) -> Image.Image:
    """Read a picture file as RGB (`ressa.data.rgb`).

    Raises UsageError when it is missing, no regular file, larger than `limit_pixels` allows, or no picture.
    """
    try:
        return _read(path)
    except _Unusable as error:
        raise UsageError(f"image {path} {error.problem}: {error.advice}.") from None


def read_small(path: StoredPicture) -> Image.Image:
    """A picture file as RGB, a large JPEG at a half to an eighth of its size, which is quicker, its sides no shorter
    than 64 pixels. Raises UsageError with the problem."""
    try:
        return _read(path, least=64)
    except _Unusable as error:
        raise UsageError(error.problem) from None


def what_is_wrong(path: StoredPicture) -> str | None:
    """Why `open_image` would refuse a file, in a few words; None where it would not.

    All of the file is read, but a JPEG is decoded at an eighth of its size.
    """
    try:
        _read(path, least=1)
    except _Unusable as error:
        return error.problem
    return None


def limit_pixels(most: int) -> None:
    """Read no picture of more than `most` pixels, in this whole process.

    The limit is Pillow's own (which refuses twice what it warns of), and 178,956,970 until it is changed.
    """
    Image.MAX_IMAGE_PIXELS = (most + 1) // 2
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def _read(path: StoredPicture, least: int | None = None) -> Image.Image:
    """The picture; least: its sides may be an eighth as long, and so many pixels, where that is quicker."""
    try:
        if isinstance(path, Path) and not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            raise _Unusable("is a folder, a pipe or a device", "put a picture file there")
        with Image.open(path if isinstance(path, Path) else path.open()) as image:
            if image.format in ("EPS", "WMF"):  # Pillow lets another program draw them
                raise _Unusable(f"is {image.format}, a drawing and no picture", "convert it to PNG")
            short, long = sorted(image.size)
            if long > RATIO * short:
                raise _Unusable(
                    f"is {image.width:,} × {image.height:,} pixels, and sides of at most {RATIO} to 1 are read",
                    "cut it",
                )
            if least is not None:
                image.draft(None, (max(least, image.width // 8), max(least, image.height // 8)))
            with _one_large if image.width * image.height > LARGE else nullcontext():
                return to_rgb(image)
    except _Unusable:
        raise
    except FileNotFoundError:
        raise _Unusable("does not exist", "put it there or correct the data set's image folder") from None
    except Image.DecompressionBombError as error:
        size = re.search(r"\((\d+) pixels\)", str(error))
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        has = f"{int(size[1]):,}" if size else "too many"
        raise _Unusable(
            f"has {has} pixels, and at most {most:,} are read (--max-pixels)",
            "make it smaller, or allow more",
        ) from None
    except MemoryError:
        raise _Unusable("needs more memory than there is", "make it smaller") from None
    except Exception as error:  # Pillow's decoders raise whatever they stumble over
        reason = " ".join(str(error).split())[:200].replace(f" {str(path)!r}", "") or type(error).__name__
        raise _Unusable(f"cannot be read ({reason})") from None


class ImageCache:
    """The last images opened: the questions about one image stand together, so a few suffice.

    It keeps at most `size` images and `CACHED_PIXELS` pixels, and always the one opened last.
    """

    def __init__(self, size: int = 64) -> None:
        self._size = size
        self._images: OrderedDict[StoredPicture, Image.Image] = OrderedDict()

    def load(self, samples: Sequence[Sample]) -> list[list[Image.Image]]:
        """The RGB images of each sample, in order; one object for each distinct path."""
        return [[self._load(picture) for picture in sample.images] for sample in samples]

    def load_single(self, samples: Sequence[Sample]) -> list[Image.Image]:
        """The one RGB image of each sample. Raises UsageError for a sample with several or none."""
        for sample in samples:
            if (count := len(sample.images)) != 1:
                raise UsageError(
                    f"sample {sample.id or '(unnamed)'} shows {count} pictures, and one is taken: leave it out."
                )
        return [image for (image,) in self.load(samples)]

    def _load(self, source: Picture) -> Image.Image:
        if isinstance(source, Image.Image):
            return to_rgb(source)
        if source in self._images:
            self._images.move_to_end(source)
            return self._images[source]
        opened = self._images[source] = open_image(source)
        while len(self._images) > 1 and (
            len(self._images) > self._size
            or sum(image.width * image.height for image in self._images.values()) > CACHED_PIXELS
        ):
            self._images.popitem(last=False)
        return opened
