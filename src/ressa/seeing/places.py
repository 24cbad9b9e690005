"""Where named objects are: COCO's `instances_<split>.json`, which the embedded scenes have, too."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ressa.data import Question, Sample
from ressa.data.jsonfile import lists
from ressa.data.tree import Tree
from ressa.data.values import field, fields, identity, text, texts
from ressa.errors import UsageError

WHAT = "COCO instances"


@dataclass(frozen=True)
class Place:
    """One object: the forms of its name, and its box as shares of the picture's width and height, from its top left."""

    names: tuple[str, ...]
    left: float
    top: float
    right: float
    bottom: float


Places = Mapping[str, Sequence[Place]]
"""A picture's file name → its objects."""


def find_places(folder: Path, samples: Sequence[Sample], *, follow_links: bool = False) -> Places:
    """The places of what the samples' pictures show, from the instances files in a data folder that are called as
    their split or the folder of their pictures is; nothing where there are none."""
    wanted = {f"instances_{sample.split}.json" for sample in samples}
    wanted |= {f"instances_{path.parent.name}.json" for path in map(_file, samples) if path is not None}
    found: dict[str, list[Place]] = {}
    for path in Tree(folder, follow_links).files(".json"):
        if path.name in wanted:
            found |= read_places(path)
    return found


def read_places(path: str | Path) -> dict[str, list[Place]]:
    """The objects of a COCO instances file by their picture's file name.

    A category may carry `forms`, all forms of its name; by default its name, with an s or es for several. Crowds are
    left out. Raises UsageError for a file that is none.
    """
    images, annotations, categories = lists(path, WHAT, "images", "annotations", "categories")
    try:
        names = {identity(field(fields(each), "id"), "the id"): _forms(each) for each in categories}
        sizes = {
            identity(field(fields(each), "id"), "the id"): (
                Path(text(field(each, "file_name"), "the file name")).name,
                float(field(each, "width")),
                float(field(each, "height")),
            )
            for each in images
        }
        found: dict[str, list[Place]] = {name: [] for name, _, _ in sizes.values()}
        for each in annotations:
            if fields(each).get("iscrowd"):
                continue
            name, width, height = sizes[identity(field(each, "image_id"), "the image_id")]
            left, top, across, down = (float(value) for value in field(each, "bbox"))
            forms = names[identity(field(each, "category_id"), "the category_id")]
            box = (left / width, top / height, (left + across) / width, (top + down) / height)
            found[name].append(Place(forms, *box))
    except (UsageError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        reason = f"{error} is not listed" if isinstance(error, KeyError) else error
        raise UsageError(f"{path} is not a file of {WHAT} ({reason}): replace it.") from None
    return found


def _forms(category: dict) -> tuple[str, ...]:
    name = text(field(category, "name"), "a category's name")
    return texts(category.get("forms"), "a form of a name") or (name, f"{name}s", f"{name}es")


def named_places(question: Question, places: Places) -> list[Place]:
    """The objects of a question's picture that the question or an answer to it names, as whole words.

    Of names that lie within each other ("hot dog", "dog") the longest counts.
    """
    file = _file(question)
    shown = places.get(file.name, ()) if file is not None else ()
    said = " | ".join((question.question or question.prompt, *question.answers)).lower()
    forms = sorted({form.lower() for place in shown for form in place.names}, key=len, reverse=True)
    named = set()
    for form in forms:
        pattern = rf"(?<!\w){re.escape(form)}(?!\w)"
        if re.search(pattern, said):
            named.add(form)
            said = re.sub(pattern, "|", said)
    return [place for place in shown if named & {form.lower() for form in place.names}]


def _file(sample: Sample) -> Path | None:
    """The file of a sample's only picture."""
    first = sample.images[0] if len(sample.images) == 1 else None
    return first if isinstance(first, Path) else None
