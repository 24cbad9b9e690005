"""Karpathy's files (dataset_coco.json, dataset_flickr30k.json): images with split and sentences."""

from pathlib import Path

from ressa.data.image_folder import ImageFolder
from ressa.data.jsonfile import expecting, read_json
from ressa.data.prompts import CAPTION
from ressa.data.sample import CaptionedImage
from ressa.errors import UsageError


def read_karpathy(
    path: str | Path, images: str | Path, split: str, prompt: str = CAPTION
) -> list[CaptionedImage]:
    """The images of one split with their sentences.

    An image lies in the folder of `images` that its `filepath` names (COCO: `val2014`), else in the folder of
    its split, else in `images` itself (Flickr30k).
    """
    content = read_json(path)
    root = Path(images)
    folders: dict[Path, ImageFolder] = {}
    found = []
    with expecting("Karpathy's split files", path):
        for entry in content["images"]:
            if entry["split"] != split:
                continue
            below = entry.get("filepath", "")
            homes = (root / below, root / Path(below).name, root / split)
            home = next((home for home in homes if home != root and home.is_dir()), root)
            folder = folders.get(home) or folders.setdefault(home, ImageFolder(home))
            found.append(
                CaptionedImage(
                    image=folder.named(entry["filename"]),
                    prompt=prompt,
                    id=str(entry.get("cocoid", entry["imgid"])),
                    captions=tuple(sentence["raw"] for sentence in entry["sentences"]),
                )
            )
        splits = ", ".join(sorted({entry["split"] for entry in content["images"]}))
    if not found:
        raise UsageError(f"{path} has no images of the split {split!r}: it has {splits or 'none at all'}.")
    return found
