"""A tiny dataset folder in the public formats, written the way official files are."""

import json
from pathlib import Path

from PIL import Image

COLOURS = ("red", "blue", "green", "white")
THINGS = ("cat", "dog", "bird", "car")


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def image_name(number: int) -> str:
    return f"COCO_test_{number:012d}.png"


def tiny_dataset(folder: Path, split: str = "test", images: int = 4) -> Path:
    """`images` one-coloured images with captions, questions of all three sets and a Karpathy list."""
    for number in range(images):
        path = folder / "images" / split / image_name(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 20 + number), COLOURS[number % 4]).save(path)
    captions = {n: [f"a {COLOURS[n % 4]} {THINGS[n % 4]}", f"the {THINGS[n % 4]}"] for n in range(images)}
    write(
        folder / f"captions_{split}.json",
        {
            "images": [
                {"id": n, "file_name": image_name(n), "objects": [[THINGS[n % 4], THINGS[n % 4] + "s"]]}
                for n in range(images)
            ],
            "annotations": [
                {"id": 10 * n + k, "image_id": n, "caption": text}
                for n, texts in captions.items()
                for k, text in enumerate(texts)
            ],
        },
    )
    for prefix in ("", "okvqa_"):
        write(
            folder / f"{prefix}questions_{split}.json", {"questions": [_question(n) for n in range(images)]}
        )
        write(
            folder / f"{prefix}annotations_{split}.json",
            {"annotations": [_answers(n) for n in range(images)]},
        )
    write(
        folder / f"gqa_{split}.json",
        {
            str(n): {
                "imageId": str(n),
                "question": "Is there a cat?",
                "answer": "yes" if n == 0 else "no",
                "types": {"structural": "verify", "semantic": "obj", "detailed": "existC"},
            }
            for n in range(images)
        },
    )
    write(
        folder / "karpathy.json",
        {
            "images": [
                {
                    "filename": image_name(n),
                    "filepath": split,
                    "split": split,
                    "imgid": n,
                    "cocoid": n,
                    "sentences": [{"raw": text, "tokens": text.split()} for text in texts],
                }
                for n, texts in captions.items()
            ]
        },
    )
    return folder


def _question(number: int) -> dict:
    return {"image_id": number, "question": "What is in the picture?", "question_id": 100 + number}


def _answers(number: int) -> dict:
    said = [THINGS[number % 4]] * 7 + ["house"] * 3
    return {
        "image_id": number,
        "question_id": 100 + number,
        "question_type": "what is" if number % 2 else "what",
        "answer_type": "other",
        "multiple_choice_answer": THINGS[number % 4],
        "answers": [{"answer": text, "answer_id": k + 1} for k, text in enumerate(said)],
    }
