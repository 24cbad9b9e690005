"""Karpathy's files (dataset_coco.json, dataset_flickr30k.json): images with split and sentences."""

from pathlib import Path, PurePosixPath

from ressa.data.faults import Faults, collecting
from ressa.data.image_folder import ImageFolder
from ressa.data.jsonfile import lists
from ressa.data.prompts import CAPTION
from ressa.data.sample import CaptionedImage
from ressa.data.values import field, fields, identity, items, text
from ressa.errors import UsageError


def read_karpathy(
    path: str | Path,
    images: str | Path,
    split: str,
    prompt: str = CAPTION,
    faults: Faults | None = None,
    *,
    root: str | Path | None = None,
    follow_links: bool = False,
) -> list[CaptionedImage]:
    """The images of one split with their sentences.

    An image lies in the folder of `images` that its `filepath` names (COCO: `val2014`), else in the folder of
    its split, else in `images` itself (Flickr30k). faults: where to put what cannot be used; by default that
    raises UsageError. root, follow_links: as `ImageFolder` takes them.
    """
    (listed,) = lists(path, "Karpathy's split files", "images")
    top = Path(images)
    folders: dict[Path, ImageFolder] = {}
    splits: set[str] = set()

    def folder(below: str) -> ImageFolder:
        homes = (top / below, top / PurePosixPath(below).name, top / split)
        home = next((home for home in homes if home != top and home.is_dir()), top)
        return folders.get(home) or folders.setdefault(home, ImageFolder(home, root or top, follow_links))

    found: list[CaptionedImage] = []
    with collecting(faults) as collected:
        for place, entry in enumerate(listed):
            with collected.at(path, "images", place):
                named = text(field(fields(entry), "split"), "the split")
                splits.add(named)
                if named != split:
                    continue
                below = text(entry.get("filepath") or "", "the filepath", may_be_empty=True)
                sentences = items(field(entry, "sentences"), "sentences")
                raw = (field(fields(each, "a sentence"), "raw") for each in sentences)
                captions = tuple(text(each, "a sentence") for each in raw)
                if not captions:
                    raise UsageError("it has no sentences")
                key = entry["cocoid"] if "cocoid" in entry else field(entry, "imgid")
                image = folder(below).named(field(entry, "filename"))
                found.append(CaptionedImage(image, prompt, None, identity(key, "the id"), captions))
        if splits and split not in splits:
            raise UsageError(
                f"{path} has no images of the split {split!r}: it has {', '.join(sorted(splits))}."
            )
        return collected.some(found, f"images of the split {split!r}", path)
