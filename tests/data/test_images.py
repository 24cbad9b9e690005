"""Opening picture files: what is none, what is too large, and what would never end."""

import os
import random
import struct
import zlib

import pytest
from PIL import Image

from ressa.data import images
from ressa.data.checking import PictureCheck
from ressa.data.faults import Faults
from ressa.data.images import ImageCache, limit_pixels, open_image, what_is_wrong
from ressa.data.sample import Sample
from ressa.errors import UsageError


@pytest.fixture(autouse=True)
def _pillows_own_limit(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *more: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + b"".join(more)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def refusal(path):
    with pytest.raises(UsageError) as error:
        open_image(path)
    short = what_is_wrong(path)
    assert short in str(error.value)
    assert len(str(error.value)) < 400 + len(str(path))
    return str(error.value)


def test_a_picture_is_refused_with_its_name_and_the_reason(tmp_path):
    path = tmp_path / "x.png"
    assert f"{path} does not exist" in refusal(path)
    path.write_bytes(b"no picture")
    assert f"{path} cannot be read (cannot identify image file)" in refusal(path)
    path.write_bytes(b"")
    assert "cannot be read" in refusal(path)
    (tmp_path / "folder.png").mkdir()
    assert "is a folder, a pipe or a device" in refusal(tmp_path / "folder.png")


def test_the_place_of_a_picture_may_be_text(tmp_path):
    path = tmp_path / "x.png"
    Image.new("RGB", (3, 2), "red").save(path)
    sample = Sample((str(path), path), "")
    assert sample.images == (path, path)
    assert [image.size for image in ImageCache().load([sample])[0]] == [(3, 2), (3, 2)]


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp"])
def test_a_picture_that_was_cut_short_is_refused(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    Image.effect_noise((64, 64), 90).convert("RGB").save(path)
    assert what_is_wrong(path) is None
    path.write_bytes(path.read_bytes()[:-400])
    refusal(path)


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_the_quick_look_sees_what_a_whole_one_sees(tmp_path, options):
    path, chance = tmp_path / "x.jpg", random.Random(0)
    image = Image.frombytes("RGB", (48, 36), chance.randbytes(48 * 36 * 3)).resize((192, 144))
    image.save(path, **options)
    whole = path.read_bytes()
    seen = set()
    for _ in range(60):
        spoiled = bytearray(whole[: chance.choice([len(whole), chance.randrange(len(whole))])])
        if spoiled:
            spoiled[chance.randrange(len(spoiled))] = chance.randrange(256)
        path.write_bytes(spoiled)
        try:
            open_image(path)
            usable = True
        except UsageError:
            usable = False
        assert (what_is_wrong(path) is None) == usable
        seen.add(usable)
    assert seen == {True, False}


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    assert "pipe" in refusal(tmp_path / "x.png")


def test_what_claims_to_be_huge_is_refused_before_it_is_decoded(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(60_000, 60_000))
    assert "3,600,000,000 pixels, and at most" in refusal(path)
    path.write_bytes(png(4, 4, chunk(b"zTXt", b"a\0\0" + zlib.compress(b"0" * 200_000_000, 9))))
    refusal(path)  # a text that would fill the memory


def test_the_limit_can_be_moved(tmp_path):
    path = tmp_path / "x.png"
    Image.new("L", (50, 40)).save(path)
    limit_pixels(2_000)
    assert open_image(path).size == (50, 40)
    limit_pixels(1_998)
    assert "has 2,000 pixels, and at most 1,998 are read (--max-pixels)" in refusal(path)


def test_a_sliver_is_refused(tmp_path):
    """Scaled until its shorter side has 336 pixels, as CLIP's processor does it, it would fill the memory."""
    Image.new("L", (4000, 20)).save(tmp_path / "x.png")
    assert what_is_wrong(tmp_path / "x.png") is None
    Image.new("L", (19, 4000)).save(tmp_path / "x.png")
    assert "is 19 × 4,000 pixels, and sides of at most 200 to 1 are read" in refusal(tmp_path / "x.png")


def test_a_drawing_that_another_program_would_have_to_run_is_refused(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "x.eps")
    assert "EPS" in refusal(tmp_path / "x.eps")


def test_the_cache_opens_each_file_once_and_holds_no_more_than_its_bounds(tmp_path, monkeypatch):
    samples = []
    for number in range(4):
        Image.new("RGB", (10, 10), (number, 0, 0)).save(tmp_path / f"{number}.png")
        samples.append(Sample(tmp_path / f"{number}.png", "?"))
    cache = ImageCache(size=3)
    first = cache.load(samples[:2])
    assert cache.load(samples[:2])[0][0] is first[0][0]
    cache.load(samples)
    assert len(cache._images) == 3
    monkeypatch.setattr(images, "CACHED_PIXELS", 150)
    cache.load(samples)
    assert len(cache._images) == 1


def test_the_check_names_what_is_wrong_and_opens_each_picture_once(tmp_path):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    Image.new("RGB", (4, 4)).save(good)
    bad.write_bytes(b"")
    samples = [Sample(path, "?", "!", str(number)) for number, path in enumerate([good, bad, good, bad])]
    memory = Sample(Image.new("RGB", (2, 2)), "?")
    faults = Faults("stop")
    check = PictureCheck(faults)
    assert check.usable([*samples, memory]) == [samples[0], samples[2], memory]
    good.unlink()
    assert check.usable(samples[:1]) == samples[:1]
    with pytest.raises(UsageError, match=r"bad\.png: cannot be read .*--on-bad-sample skip"):
        faults.settle()
