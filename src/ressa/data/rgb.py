"""One door from any picture that Pillow opens to RGB, right for every mode.

- **Orientation**: EXIF's (or XMP's) tag is obeyed, as viewers do; phones store pixels on their side.
- **Frames**: of an animation or a file of several pages the first one counts.
- **Transparency** lies on white, whether it is a channel, a palette's or one colour that a file calls
  transparent.
- **Grey of 16 bits**: 0–65535 becomes 0–255 (divided by 257).
- **Integers of 32 bits and floats**: by the smallest of the usual ranges that holds all of the picture's
  values: 0–1 (floats only), 0–255, 0–65535; else stretched from its least to its greatest value. What is no
  finite number becomes black.
- **CMYK, YCbCr, HSV, LAB** are converted; an embedded colour profile is not applied, as no training pipeline
  does so.
"""

import numpy as np
from PIL import Image

WHITE = (255, 255, 255, 255)

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112  # EXIF's tag


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture upright, in mode RGB; one that is so already comes back itself."""
    image.load()  # a TIFF turns itself here, and then no longer has the tag
    turn = _TURNS.get(_orientation(image))
    if image.mode == "RGB" and turn is None and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        image = _from_numbers(image)
    elif image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image.convert("RGBA"))
    image = image.convert("RGB")
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 being upright; 1 where the tags are damaged, as the picture may be whole."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return 1


def _from_numbers(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits as 8-bit grey, with alpha where the file names a transparent value."""
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        grey = values / np.float32(257)
    else:
        grey = _in_bytes(values.astype(np.float64), whole=image.mode == "I")
    found = Image.fromarray(np.rint(grey).astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int | float):
        found.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return found


def _in_bytes(values: np.ndarray, whole: bool) -> np.ndarray:
    """Numbers of an unknown range, float64, on 0–255."""
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros_like(values)
    values = np.where(finite, values, values[finite].min())
    low, high = values.min(), values.max()
    for top in (255, 65535) if whole else (1, 255, 65535):
        if low >= 0 and high <= top:
            return np.where(finite, values * 255 / top, 0)
    return np.where(finite, (values - low) * 255 / (high - low or 1), 0)
