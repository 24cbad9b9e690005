"""Datasets without a format of their own: records that name a picture and say something of it, whatever file they
come in.

A record is an object with a picture and

- a caption or several: `caption`, `captions`, `sentences`, `text`,
- or a question with `answer` or `answers` (`label`),
- or turns: `conversations` (LLaVA's), `messages` (of chats),
- or nothing but the class of what it shows: `label`.

The picture is called `image`, `image_path`, `file_name`, `img`, `image_file` or `filename`; `images` are several.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ressa.data.formats.conversations import conversation, turns_of
from ressa.data.formats.part import KINDS, Kind, Reading
from ressa.data.formats.vqa import most_common
from ressa.data.sample import CaptionedImage, LabelledImage, Picture, Question, Sample
from ressa.data.values import answer, identity, text
from ressa.errors import UsageError

IMAGE = ("image", "image_path", "file_name", "img", "image_file", "filename", "jpg", "png")
CAPTION = ("captions", "caption", "sentences", "text", "txt")
ANSWER = ("answers", "answer", "direct_answers", "label", "multiple_choice_answer")
ID = ("id", "question_id", "image_id", "questionId", "key", "idx", "index")
_SETS = (
    (r"coco_karpathy", "caption"),
    (r"nocaps", "nocaps"),
    (r"flickr30k", "flickr30k"),
    (r"aokvqa", "aokvqa"),
    (r"ok_?vqa", "okvqa"),
    (r"text_?vqa", "textvqa"),
    (r"vizwiz", "vizwiz"),
    (r"gqa", "gqa"),
    (r"vqa(v2)?", "vqa"),
)

Find = Callable[[Any], Picture]


def kind_of(names: Mapping[str, Any] | str) -> Kind | None:
    """What records are, by the names of their fields: a record, or the beginning of a file that holds some."""

    def has(*keys: str) -> bool:
        return any(f'"{key}"' in names if isinstance(names, str) else key in names for key in keys)

    if has("conversations", "messages"):
        return "conversations"
    if has("question") and has(*ANSWER):
        return "questions"
    # Detection's files are no captions.
    if has(*CAPTION) and has(*IMAGE, "images") and not has("bbox", "segmentation"):
        return "captions"
    if has("label") and has(*IMAGE) and not has("question", "text", "bbox"):
        return "classes"
    return None


def task_of(kind: Kind, stem: str) -> str:
    """The task of records, by what they are and what their file is called (LAVIS's coco_karpathy_test.json)."""
    for name, task in _SETS:
        if KINDS[task] == kind and re.search(rf"(?:^|_){name}(?:_|$)", stem.lower()):
            return task
    return {"captions": "caption", "questions": "qa", "conversations": "instruct", "classes": "zeroshot"}[
        kind
    ]


def record(reading: Reading, entry: Mapping[str, Any], find: Find, name: str) -> Sample | None:
    """The sample of a record; None where it says nothing. find: from a picture's name, or what stands for it, to it.

    name: its id, where the record has none.
    """
    key = next(
        (identity(entry[each], f"the {each}") for each in ID if entry.get(each) not in (None, "")), name
    )
    if turns_of(entry) is not None:
        pictures = tuple(find(each) for each in _pictures(entry))
        return conversation(entry, pictures, key)
    pictures = tuple(find(each) for each in _pictures(entry))
    if not pictures:
        raise UsageError("it names no image")
    image = pictures[0] if len(pictures) == 1 else pictures
    if "question" in entry:
        return _question(reading, entry, image, key)
    if kind_of(entry) == "classes":
        return LabelledImage(image, reading.caption, None, key, label=class_name(entry["label"]))
    said = next((entry[each] for each in CAPTION if entry.get(each) not in (None, "", [])), None)
    captions = tuple(_caption(each) for each in (said if isinstance(said, list) else [said] if said else []))
    return CaptionedImage(image, reading.caption, None, key, captions) if captions else None


def class_name(value: Any) -> str:
    """A class's name as words. Raises UsageError for one that is none, such as a number."""
    name = text(value, "the label").replace("_", " ").strip()
    if not name:
        raise UsageError("the label is empty: name a class")
    return name


def _question(reading: Reading, entry: Mapping[str, Any], image: Any, key: str) -> Question | None:
    words = text(entry["question"], "the question")
    said = next((entry[each] for each in ANSWER if entry.get(each) not in (None, "", [])), None)
    if said is None:
        return None
    given = said if isinstance(said, list) else [said]
    answers = tuple(
        answer(each.get("answer") if isinstance(each, dict) else each, "an answer", may_be_empty=True)
        for each in given
    )
    if not any(each.strip() for each in answers):
        raise UsageError("nobody answers: its answers are empty")
    return Question(image, reading.ask(words), most_common(answers), key, question=words, answers=answers)


def _caption(value: Any) -> str:
    return text(value.get("raw") if isinstance(value, dict) else value, "the caption").strip()


def _pictures(entry: Mapping[str, Any]) -> list[Any]:
    if isinstance(several := entry.get("images"), list):
        return several
    found = next((entry[each] for each in IMAGE if entry.get(each) is not None), None)
    return found if isinstance(found, list) else [] if found is None else [found]


def named(path: Path, number: int) -> str:
    """What a record without an id is called."""
    return f"{path.stem} {number}"
