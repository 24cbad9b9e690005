"""Writes embedded scenes to a folder in the public formats that `ressa.data` reads (layout: `data/formats/own.py`)."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from ressa.cache import cache_folder
from ressa.embedded.captions import captions
from ressa.embedded.questions import Question, questions
from ressa.embedded.scenes import CANVAS, SPLITS, render, sample_scene
from ressa.files import fresh_directory
from ressa.locks import held
from ressa.progress import bar

VERSION = 2  # of what a seed produces; part of the cache folder's name

SIZES: dict[str, int] = {"train": 4000, "calibration": 256, "val": 500, "test": 2000, "novel": 500}
"""Scenes a split, by default."""

LICENSE = {"id": 1, "name": "CC BY-SA 4.0", "url": "https://creativecommons.org/licenses/by-sa/4.0/"}
INFO = {
    "description": "ressa embedded scenes, drawn with OpenMoji graphics (https://openmoji.org, CC BY-SA 4.0)",
    "version": str(VERSION),
}


def dataset_folder(seed: int = 0, sizes: Mapping[str, int] | None = None, cache: Path | None = None) -> Path:
    """The folder of embedded scenes for a seed, built on first use (about a second for 500 scenes on one core).

    `sizes`: scenes a split; what is absent is left out. `cache`: where folders are kept; by default
    `$RESSA_CACHE`, else `~/.cache/ressa`.
    """
    sizes = dict(SIZES if sizes is None else sizes)
    folder = _place(seed, sizes, cache)
    if not folder.is_dir():
        with held(folder, wait=True):  # another process may be drawing it
            if not folder.is_dir():
                with fresh_directory(folder) as work:
                    write_dataset(work, seed, sizes)
    return folder


def is_drawn() -> bool:
    """Whether the scenes of `dataset_folder()` are there."""
    return _place(0, SIZES, None).is_dir()


def _place(seed: int, sizes: Mapping[str, int], cache: Path | None) -> Path:
    parts = [f"v{VERSION}", f"seed{seed}", *(f"{split}{count}" for split, count in sizes.items())]
    return (cache or cache_folder()) / "-".join(["scenes", *parts])


def write_dataset(folder: Path, seed: int, sizes: Mapping[str, int]) -> None:
    """Draw all splits and write images, captions, objects' places, questions and retrieval lists."""
    karpathy: list[dict] = []
    with bar("Drawing scenes", sum(sizes.values())) as progress:
        for split, count in sizes.items():
            images = folder / "images" / split
            images.mkdir(parents=True)
            records = []
            for index in range(count):
                records.append(_draw(images, split, seed, index))
                progress.advance()
            karpathy += _write_split(
                folder, split, records, first_sentence=sum(len(r["sentids"]) for r in karpathy)
            )
    _dump(folder / "karpathy.json", {"dataset": "ressa-scenes", "images": karpathy})
    _dump(folder / "info.json", {**INFO, "license": LICENSE, "seed": seed, "sizes": dict(sizes)})
    shutil.copy(Path(__file__).parent / "openmoji" / "LICENSE.txt", folder / "LICENSE-images.txt")


def _draw(images: Path, split: str, seed: int, index: int) -> dict:
    """Draw one scene into the image folder and describe it."""
    scene = sample_scene(split, index, seed)
    name = f"{split}_{index:012d}.png"
    Image.fromarray(render(scene)).save(images / name, compress_level=1)
    shown = sorted({placed.thing for placed in scene.objects}, key=lambda thing: thing.name)
    return {
        "id": SPLITS.index(split) * 10_000_000 + index,
        "file_name": name,
        "objects": [[thing.name, thing.plural] for thing in shown],
        "places": [(o.thing, [o.left, o.top, o.width, o.height]) for o in scene.objects],
        "captions": captions(scene),
        "questions": questions(scene),
    }


def _write_split(folder: Path, split: str, records: list[dict], first_sentence: int) -> list[dict]:
    """Write one split's files; returns its entries of the Karpathy list."""
    _dump(folder / f"captions_{split}.json", _coco_captions(records))
    _dump(folder / f"instances_{split}.json", _coco_instances(records))
    asked = [(record, number, q) for record in records for number, q in enumerate(record["questions"])]
    for family, prefix in (("vqa", ""), ("okvqa", "okvqa_")):
        rows = [(record, number, q) for record, number, q in asked if q.family == family]
        asked_file, answered_file = _vqa_files(rows, split)
        _dump(folder / f"{prefix}questions_{split}.json", asked_file)
        _dump(folder / f"{prefix}annotations_{split}.json", answered_file)
    _dump(folder / f"gqa_{split}.json", _gqa(asked))
    return _karpathy(records, split, first_sentence)


def _coco_captions(records: list[dict]) -> dict:
    """COCO caption format; `objects` (each: the forms of one name) is ours, for object recall."""
    return {
        "info": INFO,
        "licenses": [LICENSE],
        "images": [
            {
                "id": record["id"],
                "file_name": record["file_name"],
                "width": CANVAS,
                "height": CANVAS,
                "license": LICENSE["id"],
                "objects": record["objects"],
            }
            for record in records
        ],
        "annotations": [
            {"id": record["id"] * 5 + number, "image_id": record["id"], "caption": caption}
            for record in records
            for number, caption in enumerate(record["captions"])
        ],
    }


def _coco_instances(records: list[dict]) -> dict:
    """COCO instances, without outlines; a category's `forms` (singular, plural) are ours."""
    placed = [(record, *place) for record in records for place in record["places"]]
    categories = sorted({thing for _, thing, _ in placed}, key=lambda thing: thing.index)
    return {
        "info": INFO,
        "licenses": [LICENSE],
        "images": [
            {"id": record["id"], "file_name": record["file_name"], "width": CANVAS, "height": CANVAS}
            for record in records
        ],
        "annotations": [
            {
                "id": number,
                "image_id": record["id"],
                "category_id": thing.index,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            for number, (record, thing, box) in enumerate(placed, start=1)
        ],
        "categories": [
            {
                "id": thing.index,
                "name": thing.name,
                "forms": [thing.name, thing.plural],
                "supercategory": thing.category,
            }
            for thing in categories
        ],
    }


def _vqa_files(rows: list[tuple[dict, int, Question]], split: str) -> tuple[dict, dict]:
    """VQAv2's pair of files. Ten answers a question, all alike: a scene leaves nothing to disagree about."""
    head = {"info": INFO, "license": LICENSE, "data_type": "ressa-scenes", "data_subtype": split}
    asked, answered = [], []
    for record, number, question in rows:
        ids = {"image_id": record["id"], "question_id": _question_id(record, number)}
        asked.append({**ids, "question": question.text})
        answered.append(
            {
                **ids,
                "question_type": question.kind,
                "answer_type": _answer_type(question.answer),
                "multiple_choice_answer": question.answer,
                "answers": [
                    {"answer": question.answer, "answer_confidence": "yes", "answer_id": n}
                    for n in range(1, 11)
                ],
            }
        )
    return {**head, "task_type": "Open-Ended", "questions": asked}, {**head, "annotations": answered}


def _gqa(asked: list[tuple[dict, int, Question]]) -> dict:
    """GQA's question file: id → question."""
    found = {}
    for record, number, question in asked:
        if question.family != "gqa":
            continue
        text, answer = question.text, question.answer
        structural = "query" if text.startswith("What") else "choose" if " or " in text else "verify"
        found[str(_question_id(record, number))] = {
            "imageId": str(record["id"]),
            "question": text,
            "answer": answer,
            "fullAnswer": answer,
            "isBalanced": True,
            "types": {"structural": structural, "semantic": "rel", "detailed": question.kind},
        }
    return found


def _karpathy(records: list[dict], split: str, first_sentence: int) -> list[dict]:
    entries = []
    for record in records:
        ids = list(range(first_sentence, first_sentence + len(record["captions"])))
        first_sentence += len(ids)
        sentences = [
            {
                "raw": caption,
                "tokens": caption.replace(",", "").split(),
                "imgid": record["id"],
                "sentid": sentence,
            }
            for sentence, caption in zip(ids, record["captions"], strict=True)
        ]
        entries.append(
            {
                "filepath": f"images/{split}",
                "filename": record["file_name"],
                "imgid": record["id"],
                "cocoid": record["id"],
                "split": split,
                "sentids": ids,
                "sentences": sentences,
            }
        )
    return entries


def _question_id(record: dict, number: int) -> int:
    return record["id"] * 100 + number


def _answer_type(answer: str) -> str:
    return "yes/no" if answer in ("yes", "no") else "number" if answer.isdigit() else "other"


def _dump(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
