"""COCO captions (also NoCaps): `{"images": [{id, file_name}], "annotations": [{image_id, caption}]}`."""

from contextlib import suppress
from pathlib import Path

from ressa.data.faults import Faults, collecting
from ressa.data.image_folder import ImageFolder, image_folder
from ressa.data.jsonfile import lists
from ressa.data.prompts import CAPTION
from ressa.data.sample import CaptionedImage
from ressa.data.values import field, fields, identity, items, text, texts
from ressa.errors import UsageError

WHAT = "COCO captions"


def read_captions(
    captions: str | Path,
    images: str | Path | ImageFolder,
    prompt: str = CAPTION,
    faults: Faults | None = None,
) -> list[CaptionedImage]:
    """The images of a COCO captions file, each with its captions; images without one are left out, which is said.

    An image entry may carry `objects`: the names of what is in it, each a string or a list of its forms
    (singular, plural). faults: where to put what cannot be used; by default that raises UsageError.
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
                if key in said:
                    image = folder.named(field(entry, "file_name"))
                    objects = items(entry.get("objects") or [], "objects")
                    forms = tuple(texts(name, "an object's name") for name in objects)
                    found.append(CaptionedImage(image, prompt, None, key, tuple(said[key]), forms))
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
