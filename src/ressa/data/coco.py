"""COCO captions (also NoCaps): `{"images": [{id, file_name}], "annotations": [{image_id, caption}]}`."""

from pathlib import Path

from ressa.data.image_folder import ImageFolder
from ressa.data.jsonfile import at_least_one, expecting, read_json
from ressa.data.prompts import CAPTION
from ressa.data.sample import CaptionedImage

WHAT = "COCO captions"


def read_captions(captions: str | Path, images: str | Path, prompt: str = CAPTION) -> list[CaptionedImage]:
    """The images of a COCO captions file, each with its captions; images without a caption are left out.

    An image entry may carry `objects`: the names of what is in it, each a string or a list of its forms
    (singular, plural).
    """
    content = read_json(captions)
    texts: dict[str, list[str]] = {}
    found = []
    with expecting(WHAT, captions):
        for annotation in content["annotations"]:
            texts.setdefault(str(annotation["image_id"]), []).append(annotation["caption"])
        folder = ImageFolder(images, names_of(content["images"]))
        for image in content["images"]:
            if str(image["id"]) in texts:
                found.append(
                    CaptionedImage(
                        image=folder.numbered(image["id"]),
                        prompt=prompt,
                        id=str(image["id"]),
                        captions=tuple(texts[str(image["id"])]),
                        objects=tuple(_forms(name) for name in image.get("objects", ())),
                    )
                )
    return at_least_one(found, "captions", captions)


def image_names(captions: str | Path) -> dict[str, str]:
    """Image id → file name, from the `images` list of a COCO captions file."""
    content = read_json(captions)
    with expecting(WHAT, captions):
        return names_of(content["images"])


def names_of(images: list[dict]) -> dict[str, str]:
    """Image id → file name. NoCaps and COCO alike."""
    return {str(image["id"]): image["file_name"] for image in images}


def _forms(name: str | list[str]) -> tuple[str, ...]:
    return (name,) if isinstance(name, str) else tuple(name)
