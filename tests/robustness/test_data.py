"""Dataset folders as people have them: pictures of every kind, and annotation files with anything in them."""

import json
import os
import random
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.robustness.net import QUICK, Net

RIGHT, WRONG, EITHER = (0,), (2,), (0, 2)

PICTURE = Path("images/calibration/COCO_test_000000000000.png")


def saved(
    format: str, mode: str = "RGB", size: tuple[int, int] = (24, 20), **options: Any
) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        Image.new(mode, size).save(path, format=format, **options)

    return write


def chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def png_header(width: int, height: int) -> bytes:
    about = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", about)


def holding(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


def cut(path: Path) -> None:
    noise = random.Random(0).randbytes(3 * 64 * 64)
    Image.frombytes("RGB", (64, 64), noise).save(path)
    path.write_bytes(path.read_bytes()[:4000])


def text_bomb(path: Path) -> None:
    """A small PNG whose comment unpacks to 100 MB."""
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"\0" * 100_000_000, 9))
    rows = chunk(b"IDAT", zlib.compress(b"\0" * 4)) + chunk(b"IEND", b"")
    path.write_bytes(png_header(1, 1) + bomb + rows)


def animated(path: Path) -> None:
    frames = [Image.new("RGB", (24, 20), colour) for colour in ("red", "blue")]
    frames[0].save(path, format="GIF", save_all=True, append_images=frames[1:])


PICTURES: dict[str, tuple[Callable[[Path], Any], tuple[int, ...]]] = {
    "a grey one": (saved("PNG", "L"), RIGHT),
    "grey with alpha": (saved("PNG", "LA"), RIGHT),
    "with alpha": (saved("PNG", "RGBA"), RIGHT),
    "a palette": (saved("PNG", "P"), RIGHT),
    "black and white": (saved("PNG", "1"), RIGHT),
    "16 bits": (saved("PNG", "I;16"), RIGHT),
    "floating point": (saved("TIFF", "F"), RIGHT),
    "CMYK": (saved("JPEG", "CMYK"), RIGHT),
    "YCbCr": (saved("JPEG", "YCbCr"), RIGHT),
    "LAB": (saved("TIFF", "LAB"), RIGHT),
    "a GIF": (animated, RIGHT),
    "a BMP": (saved("BMP"), RIGHT),
    "a WebP": (saved("WEBP", "RGBA"), RIGHT),
    "a TGA": (saved("TGA"), EITHER),
    "an icon": (saved("ICO"), EITHER),
    "one pixel": (saved("PNG", size=(1, 1)), EITHER),
    "a sliver": (saved("PNG", size=(1, 3000)), EITHER),
    "a strip": (saved("PNG", size=(3000, 1)), EITHER),
    "an empty file": (holding(b""), WRONG),
    "text": (holding(b"no picture"), WRONG),
    "a drawing": (holding(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), WRONG),
    "a header alone": (holding(png_header(24, 20)), WRONG),
    "a picture that claims to be huge": (holding(png_header(60_000, 60_000)), WRONG),
    "a picture of no size": (holding(png_header(0, 0)), WRONG),
    "a picture cut short": (cut, WRONG),
    "a comment that is a bomb": (text_bomb, EITHER),
    "a folder": (lambda path: path.mkdir(), WRONG),
    "a pipe": (lambda path: os.mkfifo(path), WRONG),
    "a link to nothing": (lambda path: path.symlink_to("nothing"), WRONG),
    "a link to itself": (lambda path: path.symlink_to(path.name), WRONG),
    "a link out of the folder": (lambda path: path.symlink_to("/etc/hostname"), WRONG),
    "nothing": (lambda path: None, WRONG),
}


def prune(net: Net, data: Path) -> tuple[object, ...]:
    return ("prune", net.inputs.model, "-o", net.out, "--calibration", data, *QUICK[:2], "--samples", 64)


def evaluate(net: Net, data: Path, *tasks: str) -> tuple[object, ...]:
    where = ("--data", data, "--split", "calibration")
    return ("evaluate", net.inputs.model, *where, "--tasks", ",".join(tasks), "--batch-size", 64)


@pytest.mark.parametrize("what", PICTURES)
def test_a_picture(net: Net, what: str) -> None:
    write, may = PICTURES[what]
    for run in (prune, lambda net, data: evaluate(net, data, "retrieval")):
        data = net.data()
        (data / PICTURE).unlink()
        write(data / PICTURE)
        net.check(what, *run(net, data), may=may)


FILES = {
    "captions_calibration.json": ("caption",),
    "questions_calibration.json": ("vqa",),
    "annotations_calibration.json": ("vqa",),
    "gqa_calibration.json": ("gqa",),
    "karpathy.json": ("retrieval",),
}
CONTENTS: dict[str, tuple[bytes | None, tuple[int, ...]]] = {
    "no file": (None, WRONG),
    "nothing": (b"", WRONG),
    "null": (b"null", WRONG),
    "a number": (b"17", WRONG),
    "text": (b'"captions"', WRONG),
    "an empty list": (b"[]", WRONG),
    "an empty mapping": (b"{}", WRONG),
    "a list of lists": (b"[[[]]]", WRONG),
    "cut short": (b'{"images": [{"id": 1,', WRONG),
    "NaN": (b'{"images": NaN, "annotations": NaN, "questions": NaN}', WRONG),
    "empty lists": (b'{"images": [], "annotations": [], "questions": []}', WRONG),
    "lists of null": (b'{"images": [null], "annotations": [null], "questions": [null]}', WRONG),
    "numbers": (b'{"images": 1, "annotations": 2, "questions": 3}', WRONG),
    "UTF-16": ('{"images": []}'.encode("utf-16"), WRONG),
    "Latin-1": ('{"images": "é"}'.encode("latin-1"), WRONG),
    "zeros": (b"\0" * 100, WRONG),
    "a picture": (b"\x89PNG\r\n\x1a\n", WRONG),
    "brackets": (b"[" * 200_000, WRONG),
    "a number of digits": (b'{"images": ' + b"9" * 100_000 + b"}", WRONG),
    "braces": (b'{"a":' * 100_000, WRONG),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_an_annotation_file(net: Net, name: str) -> None:
    for what, (content, may) in CONTENTS.items():
        data = net.data()
        (data / name).unlink()
        if content is not None:
            (data / name).write_bytes(content)
        if name != "karpathy.json" or content is not None:  # without it, the captions serve
            net.check((name, what), *evaluate(net, data, *FILES[name]), may=may)
    data = net.data()
    content = (data / name).read_bytes()
    (data / name).write_bytes(b"\xef\xbb\xbf" + content)
    net.check((name, "a mark at the beginning"), *evaluate(net, data, *FILES[name]), may=RIGHT)
    for what, make in {
        "a folder": lambda path: path.mkdir(),
        "a pipe": lambda path: os.mkfifo(path),
        "a link to nothing": lambda path: path.symlink_to("nothing"),
        "a link to itself": lambda path: path.symlink_to(path.name),
    }.items():
        data = net.data()
        (data / name).unlink()
        make(data / name)
        net.check((name, what), *evaluate(net, data, *FILES[name]), may=EITHER)


MISSING = object()
VALUES = (
    *(MISSING, None, True, 0, -1, 1.5, 10**30, float("nan"), "", " ", [], {}, [None], [[]], {"a": 1}),
    *(
        "<image>",
        "<image> <image>",
        "\ud800",
        "\0",
        "a\nb",
        "../../../etc/passwd",
        "/etc/passwd",
        "word " * 3000,
        "é🦊",
    ),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a JSON file each thing first stands: an entry of a list stands for all."""
    if path:
        yield path
    if isinstance(value, dict):
        for number, (key, inner) in enumerate(value.items()):
            if number == 0 or not key.isdigit():
                yield from places(inner, (*path, key))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*path, 0))


def put(document: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        document = document[key]
    if value is MISSING:
        del document[path[-1]]
    else:
        document[path[-1]] = value


@pytest.mark.parametrize("name", FILES)
def test_a_value_in_an_annotation_file(net: Net, name: str) -> None:
    original = (net.inputs.data / name).read_text()
    data = net.data()
    for path in places(json.loads(original)):
        for value in VALUES:
            document = json.loads(original)
            put(document, path, value)
            (data / name).write_text(json.dumps(document))
            shown = "nothing" if value is MISSING else repr(value)[:30]
            where = ".".join(map(str, path))
            # What is no text is a reader's matter, and the run ends behind the readers, as there is no such device;
            # text goes through tokenizer and model too.
            if isinstance(value, str) or name == "karpathy.json":
                net.check((name, where, shown), *evaluate(net, data, *FILES[name]), may=(0, 1, 2))
            else:
                net.check((name, where, shown), *prune(net, data), "--device", "cuda:99")
