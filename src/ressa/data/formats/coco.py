"""COCO captions and NoCaps: `{"images": [{id, file_name}], "annotations": [{image_id, caption}]}`.

COCO's archives unpack to `annotations/captions_train2017.json` and `train2017/`, likewise for `val` and 2014. NoCaps
is the file `nocaps_val_4500_captions.json`, each image with its domain, and a folder of Open Images pictures.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from ressa.data.faults import Faults, collecting
from ressa.data.formats.part import Part, Reading, check_split
from ressa.data.image_folder import ImageFolder, image_folder
from ressa.data.jsonfile import lists
from ressa.data.prompts import CAPTION
from ressa.data.sample import CaptionedImage
from ressa.data.tree import Tree
from ressa.data.values import field, fields, identity, items, text, texts
from ressa.errors import UsageError

WHAT = "COCO captions"
_COCO = re.compile(r"captions_((train|val)(2014|2017))\.json")
_YEARED = re.compile(r"COCO_(train|val|test)\d{4}_")
_NOCAPS = re.compile(r"nocaps_(val|test)\w*captions\w*\.json")


def find(tree: Tree) -> Iterator[Part]:
    for file in tree.files(".json"):
        if found := _COCO.fullmatch(file.name):
            own, split, year = found.groups()
            images = tree.pictures(file, *folders_of(own))
            yield Part("caption", split, f"COCO captions {year}", (file,), _read, images, own, own)
        elif found := _NOCAPS.fullmatch(file.name):
            names = (
                ("nocaps/val", "nocaps/images", "nocaps_images", "nocaps_val", "validation"),
                ("val", "images"),
            )
            images = tree.pictures(file, *names)
            yield Part("nocaps", found[1], "NoCaps", (file,), _read, images, "nocaps_images")


def folders_of(own: str) -> tuple[tuple[str, ...], ...]:
    """Where COCO's pictures of such a split (val2014) are: in their folder, and else in those of the other year.

    The same pictures were split differently in 2014 and 2017; each is known by its number.
    """
    others = (
        ("train2017", "val2017", "test2017")
        if own.endswith(("2014", "2015"))
        else ("train2014", "val2014", "test2014")
    )
    return ((own, *others),)


def _read(reading: Reading, part: Part) -> Sequence[CaptionedImage]:
    return read_captions(part.files[0], part.pictures(reading), reading.caption, reading.faults, part.split)


def read_captions(
    captions: str | Path,
    images: str | Path | ImageFolder,
    prompt: str = CAPTION,
    faults: Faults | None = None,
    split: str = "",
) -> list[CaptionedImage]:
    """The images of a COCO captions file, each with its captions; images without one are left out, which is said.

    An image entry may carry `objects`: the names of what is in it, each a string or a list of its forms
    (singular, plural); and its `domain` (NoCaps). faults: where to put what cannot be used; by default that raises
    UsageError. split: of which all images have to be, where their names say so.
    """
    listed, annotations = lists(captions, WHAT, "images", "annotations")
    folder = image_folder(images)
    said: dict[str, list[str]] = {}
    found: list[CaptionedImage] = []
    seen: set[str] = set()
    with collecting(faults) as collected:
        for place, entry in enumerate(annotations):
            with collected.at(captions, "annotations", place):
                key = identity(field(fields(entry), "image_id"), "the image_id")
                caption = text(field(entry, "caption"), "the caption")
                said.setdefault(key, []).append(caption)
        for place, entry in enumerate(listed):
            with collected.at(captions, "images", place):
                key = identity(field(fields(entry), "id"), "the id")
                if key in seen:
                    raise UsageError(f"an image before it has the id {key}, too")
                seen.add(key)
                if split and (named := _YEARED.match(str(entry.get("file_name")))):
                    check_split(named[1], split)
                if key in said:
                    image = folder.named(field(entry, "file_name"))
                    objects = items(entry.get("objects") or [], "objects")
                    forms = tuple(texts(name, "an object's name") for name in objects)
                    domain = texts(entry.get("domain"), "the domain")
                    found.append(CaptionedImage(image, prompt, None, key, tuple(said[key]), forms, domain))
        collected.leave_out(captions, len(seen - said.keys()), "images without a caption")
        strangers = sum(len(texts) for key, texts in said.items() if key not in seen)
        collected.leave_out(captions, strangers, "captions of images that it does not list")
        return collected.some(found, "captions", captions)


def image_names(captions: str | Path) -> dict[str, str]:
    """Image id → file name, from the `images` list of a COCO captions file.

    Entries that lack one of them are passed over: they are told where captions are read.
    """
    (images,) = lists(captions, WHAT, "images")
    found = {}
    for entry in images:
        with suppress(UsageError):
            name = text(field(fields(entry), "file_name"), "the file name")
            found[identity(field(entry, "id"), "the id")] = name
    return found
