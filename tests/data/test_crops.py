"""Pictures are cut as torchvision's RandomResizedCrop does, and mirrored."""

import math
import random

import pytest
from data.tiny_folders import tiny_dataset
from PIL import Image

from ressa.data import training_samples
from ressa.data.crops import crop, cropped
from ressa.data.sample import Sample


def picture(width: int, height: int) -> Image.Image:
    """Every pixel says where it is: red is x, green is y (of up to 256)."""
    image = Image.new("RGB", (width, height))
    image.putdata([(x, y, 0) for y in range(height) for x in range(width)])
    return image


def box_of(part: Image.Image) -> tuple[int, int, int, int, bool]:
    """Left, top, right, bottom (inclusive) and whether it is mirrored, read off the pixels."""
    (x0, y0, _), (x1, y1, _) = part.getpixel((0, 0)), part.getpixel((part.width - 1, part.height - 1))
    return min(x0, x1), y0, max(x0, x1), y1, x0 > x1


def test_parts_are_as_large_and_as_broad_as_they_may_be():
    rng = random.Random(0)
    image = picture(160, 120)
    shares, ratios, mirrored = [], [], 0
    for _ in range(500):
        part = crop(image, rng)
        left, top, right, bottom, is_mirrored = box_of(part)
        assert (right - left + 1, bottom - top + 1) == part.size  # whole pixels, nothing scaled
        shares.append(part.width * part.height / (160 * 120))
        ratios.append(part.width / part.height)
        mirrored += is_mirrored
    assert 0.49 < min(shares) < 0.52
    assert max(shares) > 0.95
    assert 0.74 < min(ratios) < 0.8
    assert 1.2 < max(ratios) < 1.35
    # A share a of a 4:3 picture fits at a ratio of 4a/3 or more; ratios are uniform in their logarithm.
    areas = [0.5 + 0.5 * (place + 0.5) / 1000 for place in range(1000)]
    fits = [min(1, -math.log(a) / (2 * math.log(4 / 3))) for a in areas]
    expected = sum(a * fit for a, fit in zip(areas, fits, strict=True)) / sum(fits)
    assert sum(shares) / 500 == pytest.approx(expected, abs=0.02)
    assert abs(mirrored - 250) < 5 * math.sqrt(500 / 4)


@pytest.mark.parametrize(("size", "part"), [((200, 20), (27, 20)), ((20, 200), (20, 27)), ((1, 1), (1, 1))])
def test_what_no_try_fits_gives_its_middle(size, part):
    found = crop(picture(*size), random.Random(1))
    assert found.size == part
    left, top, right, bottom, _ = box_of(found)
    assert abs(left - (size[0] - 1 - right)) <= 1
    assert abs(top - (size[1] - 1 - bottom)) <= 1


def test_a_sample_has_one_cut():
    one, two = picture(40, 30), picture(30, 40)
    sample = Sample((one, two), "p", "t", "7")
    first, again, other = cropped(sample, 3, 5), cropped(sample, 3, 5), cropped(sample, 3, 6)
    assert [each.tobytes() for each in first.images] == [each.tobytes() for each in again.images]
    assert [each.tobytes() for each in first.images] != [each.tobytes() for each in other.images]
    assert (first.prompt, first.target, first.id, len(first.images)) == ("p", "t", "7", 2)
    assert isinstance(cropped(Sample(one, "p"), 0, 0).image, Image.Image)
    words = Sample(None, "", "only words")
    assert cropped(words, 0, 0) is words


def test_files_are_opened(tmp_path):
    folder = tiny_dataset(tmp_path / "tiny", images=3)
    (sample, *_) = training_samples(folder, "test", 3, 0)
    found = cropped(sample, 0, 0)
    with Image.open(sample.image) as image:
        assert found.image.width * found.image.height >= 0.45 * image.width * image.height
