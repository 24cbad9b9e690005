"""Visual Genome: `question_answers.json`, a list of images with their questions, and `region_descriptions.json`.

images.zip and images2.zip unpack to `VG_100K/` and `VG_100K_2/`. The dataset has no splits: all of it is `train`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from ressa.data.faults import collecting
from ressa.data.formats.part import Part, Reading
from ressa.data.jsonfile import entries
from ressa.data.numbering import Numbering, ids_in
from ressa.data.sample import CaptionedImage, Question
from ressa.data.tree import Tree
from ressa.data.values import answer, field, fields, identity, items, text

FOLDERS = (("VG_100K", "VG_100K_2"), ("vg/images", "visual_genome/images"), ("gqa/images", "images"))
WANTED = "VG_100K and VG_100K_2"


def find(tree: Tree) -> Iterator[Part]:
    for file in tree.files(".json"):
        if file.name == "question_answers.json":
            images = tree.pictures(file, *FOLDERS)
            yield Part("vg", "train", "Visual Genome questions", (file,), _questions, images, WANTED)
        elif file.name == "region_descriptions.json":
            images = tree.pictures(file, *FOLDERS)
            yield Part(
                "caption", "train", "Visual Genome regions", (file,), _regions, images, WANTED, "regions"
            )


def _questions(reading: Reading, part: Part) -> Sequence[Question]:
    def question(entry: dict[str, Any], image: Any) -> Question:
        asked = text(field(entry, "question"), "the question")
        said = answer(field(entry, "answer"), "the answer")
        key = identity(field(entry, "qa_id"), "the qa_id")
        # Answers are sentences of a word or two: "Green."
        target = said.strip().removesuffix(".").lower()
        return Question(image, reading.ask(asked), target, key, question=asked, answers=(said,))

    return _each(reading, part, "qas", question)


def _regions(reading: Reading, part: Part) -> Sequence[CaptionedImage]:
    """Each image with what is said of its regions, which is less than a caption says."""
    found: dict[Any, list[str]] = {}
    ids: dict[Any, str] = {}

    def region(entry: dict[str, Any], image: Any) -> None:
        found.setdefault(image, []).append(text(field(entry, "phrase"), "the phrase").strip())
        ids.setdefault(image, image.stem)

    _each(reading, part, "regions", region)
    return [
        CaptionedImage(image, reading.caption, None, ids[image], tuple(dict.fromkeys(phrases)))
        for image, phrases in found.items()
    ]


def _each(reading: Reading, part: Part, name: str, make: Any) -> list[Any]:
    (file,) = part.files
    images = entries(file, part.name)
    # Older releases call an image's number image_id.
    field_name = (
        "id" if any(isinstance(entry, dict) and "id" in entry for entry in images[:9]) else "image_id"
    )
    pictures = Numbering("Visual Genome", part.pictures(reading), ids_in(images, field_name))
    found = []
    with collecting(reading.faults) as collected:
        for place, entry in enumerate(images):
            with collected.at(file, "", place):
                inner = items(field(fields(entry), name), name)
                if not inner:
                    continue
                image = pictures.find(identity(field(entry, field_name), "the id"))
                for number, each in enumerate(inner):
                    with collected.at(file, f"[{place}].{name}", number):
                        found.append(make(fields(each), image))
        return collected.some(found, f"samples of {part.name}", file)
