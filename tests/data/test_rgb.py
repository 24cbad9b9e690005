"""From any picture that Pillow opens to RGB: each mode shows what a viewer would show."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from ressa.data.rgb import to_rgb

RAMP = np.linspace(0, 255, 16).round().astype(np.uint8).reshape(2, 8)
COLOURS = {"red": (200, 40, 30), "green": (60, 150, 70), "grey": (90, 90, 90)}
COLOUR_MODES = ("RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV", "LAB", "P", "PA")
GREY_MODES = ("L", "LA", "La", "P", "PA", "I", "F", "I;16", "I;16L", "I;16B", "I;16N", "1")


def grey(image):
    pixels = np.asarray(to_rgb(image))
    assert pixels.shape[2] == 3
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0].astype(int)


def reread(image, suffix, **options):
    stream = io.BytesIO()
    image.save(stream, suffix, **options)
    return Image.open(stream)


@pytest.mark.parametrize("mode", COLOUR_MODES)
@pytest.mark.parametrize("colour", COLOURS.values(), ids=COLOURS)
def test_a_colour_keeps_its_look_in_every_mode(mode, colour):
    plain = Image.new("RGB", (3, 2), colour)
    if mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(plain, *profiles, outputMode="LAB")
    else:
        image = plain.quantize(4) if mode in ("P", "PA") else plain
        for step in ("RGBA", "RGBa") if mode == "RGBa" else (mode,):
            image = image.convert(step)
    assert image.mode == mode
    found = to_rgb(image)
    assert (found.mode, found.size) == ("RGB", (3, 2))
    assert np.abs(np.asarray(found).astype(int) - colour).max() <= 3


@pytest.mark.parametrize("mode", GREY_MODES)
def test_grey_is_black_white_and_what_lies_between(mode):
    plain = Image.fromarray(RAMP)
    expected = RAMP.astype(int)
    if mode.startswith("I;16"):
        values = RAMP.astype(">u2" if mode == "I;16B" else "<u2") * 257
        image = Image.frombytes(mode, (8, 2), values.tobytes())
    elif mode == "1":
        image, expected = plain.point(lambda value: 255 * (value > 127)).convert("1"), 255 * (RAMP > 127)
    else:
        image = plain
        for step in {"La": ("LA", "La"), "PA": ("P", "PA")}.get(mode, (mode,)):
            image = image.convert(step)
    assert image.mode == mode
    assert np.abs(grey(image) - expected).max() <= 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.float32([[0, 0.5, 1]]), [0, 128, 255]),  # 0–1
        (np.float32([[0, 100, 200]]), [0, 100, 200]),  # 0–255
        (np.float32([[0, 25700, 65535]]), [0, 100, 255]),  # 0–65535
        (np.float32([[-1, 0, 1]]), [0, 128, 255]),  # stretched
        (np.float32([[np.nan, 0.5, np.inf]]), [0, 128, 0]),
        (np.float32([[np.nan, np.nan, np.nan]]), [0, 0, 0]),
        (np.float32([[7e9, 7e9, 7e9]]), [0, 0, 0]),
        (np.int32([[0, 1, 200]]), [0, 1, 200]),
        (np.int32([[0, 25700, 65535]]), [0, 100, 255]),
        (np.int32([[-100, 0, 100]]), [0, 128, 255]),
    ],
)
def test_numbers_are_scaled_by_the_smallest_usual_range_that_holds_them(values, expected):
    assert grey(Image.fromarray(values))[0].tolist() == expected


def test_16_bits_read_from_files_are_neither_white_nor_black():
    values = Image.fromarray(RAMP.astype(np.uint16) * 257)
    for suffix in ("PNG", "TIFF", "PPM"):
        assert np.abs(grey(reread(values, suffix)) - RAMP).max() <= 1
    floats = Image.fromarray((RAMP / 255).astype(np.float32))
    assert np.abs(grey(reread(floats, "TIFF")) - RAMP).max() <= 1


def test_transparency_lies_on_white():
    clear, half = Image.new("RGBA", (2, 2), (255, 0, 0, 0)), Image.new("RGBA", (2, 2), (255, 0, 0, 128))
    assert to_rgb(clear).getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(half).getpixel((0, 0)) == (255, 127, 127)
    assert to_rgb(clear.convert("RGBa")).getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(Image.new("LA", (2, 2), (0, 0))).getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(Image.new("La", (2, 2), (0, 0))).getpixel((0, 0)) == (255, 255, 255)


def test_a_palettes_and_a_files_transparent_colour_are_white_too():
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.putpixel((1, 0), 1)
    for suffix, clear in (("PNG", 0), ("GIF", 0), ("PNG", b"\x00\xff")):
        found = to_rgb(reread(palette, suffix, transparency=clear))
        assert [found.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (10, 20, 30)]
    colour = Image.new("RGB", (2, 1), (1, 2, 3))
    colour.putpixel((1, 0), (4, 5, 6))
    found = to_rgb(reread(colour, "PNG", transparency=(1, 2, 3)))
    assert [found.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (4, 5, 6)]
    plain = Image.fromarray(np.uint8([[7, 9]]))
    assert grey(reread(plain, "PNG", transparency=7))[0].tolist() == [255, 9]
    wide = Image.fromarray(np.uint16([[7 * 257, 9 * 257]]))
    assert grey(reread(wide, "PNG", transparency=7 * 257))[0].tolist() == [255, 9]


def _with_orientation(image, suffix, value):
    exif = image.getexif()
    exif[0x0112] = value
    return reread(image, suffix, exif=exif, **({"lossless": True} if suffix == "WEBP" else {}))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["PNG", "WEBP", "TIFF", "JPEG"])
def test_the_orientation_tag_is_obeyed(suffix, orientation):
    image = Image.fromarray(np.uint8(np.random.default_rng(0).integers(0, 255, (5, 7, 3))))
    found = to_rgb(_with_orientation(image, suffix, orientation))
    expected = ImageOps.exif_transpose(_with_orientation(image, suffix, orientation)).convert("RGB")
    assert found.size == ((7, 5) if orientation < 5 else (5, 7))
    assert np.array_equal(np.asarray(found), np.asarray(expected))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_or_foreign_tag_leaves_the_picture_as_it_is():
    image = Image.new("RGB", (4, 2))
    image.info["exif"] = b"Exif\x00\x00II*\x00\xff\xff\xff\xff"
    assert to_rgb(image).size == (4, 2)
    assert to_rgb(_with_orientation(image, "PNG", 77)).size == (4, 2)


@pytest.mark.parametrize("suffix", ["GIF", "TIFF", "WEBP", "PNG"])
def test_of_several_frames_the_first_counts(suffix):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if suffix == "WEBP" else {}
    found = reread(frames[0], suffix, save_all=True, append_images=frames[1:], **options)
    assert found.n_frames == 2
    assert to_rgb(found).getpixel((0, 0)) == (255, 0, 0)


def test_an_rgb_picture_is_not_copied():
    image = Image.new("RGB", (4, 4))
    assert to_rgb(image) is image
