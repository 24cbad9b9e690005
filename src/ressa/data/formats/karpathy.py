"""Karpathy's files (`dataset_coco.json`, `dataset_flickr30k.json` of caption_datasets.zip): images with split and
sentences.

COCO's `restval` are pictures of val2014 that are neither in `val` nor in `test`; as everywhere, they belong to `train`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from ressa.data.faults import Faults, collecting
from ressa.data.formats.part import Part, Reading
from ressa.data.image_folder import ImageFolder
from ressa.data.jsonfile import lists
from ressa.data.prompts import CAPTION
from ressa.data.sample import CaptionedImage
from ressa.data.tree import Tree
from ressa.data.values import field, fields, identity, items, text
from ressa.errors import UsageError

_SETS = {
    "dataset_coco.json": ("caption", "COCO, Karpathy's splits", ("train2014", "val2014")),
    "dataset_flickr30k.json": ("flickr30k", "Flickr30k, Karpathy's splits", ("flickr30k-images",)),
}
FLICKR = ("flickr30k-images",), ("flickr30k_images",), ("Images", "images")


def find(tree: Tree) -> Iterator[Part]:
    for file in tree.files(".json"):
        if file.name in _SETS:
            task, name, folders = _SETS[file.name]
            groups = FLICKR if task == "flickr30k" else ((*folders, "train2017", "val2017"),)
            images = tree.pictures(file, *groups)
            for split in ("train", "val", "test"):
                yield Part(task, split, name, (file,), _read, images, " and ".join(folders))


def _read(reading: Reading, part: Part) -> Sequence[CaptionedImage]:
    return read_karpathy(part.files[0], part.pictures(reading), part.split, reading.caption, reading.faults)


def read_karpathy(
    path: str | Path,
    images: str | Path | ImageFolder,
    split: str,
    prompt: str = CAPTION,
    faults: Faults | None = None,
    *,
    root: str | Path | None = None,
    follow_links: bool = False,
) -> list[CaptionedImage]:
    """The images of one split with their sentences.

    images: the folders to look into, or a folder: an image lies in the folder of it that its `filepath` names (COCO:
    `val2014`), else in the folder of its split, else in `images` itself (Flickr30k). faults: where to put what
    cannot be used; by default that raises UsageError. root, follow_links: as `ImageFolder` takes them.
    """
    (listed,) = lists(path, "Karpathy's split files", "images")
    top = images.path if isinstance(images, ImageFolder) else Path(images)
    folders: dict[Path, ImageFolder] = {}
    splits: set[str] = set()

    def folder(below: str) -> ImageFolder:
        if isinstance(images, ImageFolder):
            return images
        homes = (top / below, top / PurePosixPath(below).name, top / split)
        home = next((home for home in homes if home != top and home.is_dir()), top)
        return folders.get(home) or folders.setdefault(home, ImageFolder(home, root or top, follow_links))

    found: list[CaptionedImage] = []
    with collecting(faults) as collected:
        for place, entry in enumerate(listed):
            with collected.at(path, "images", place):
                named = text(field(fields(entry), "split"), "the split")
                splits.add(named)
                if named != split and not (named == "restval" and split == "train"):
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
