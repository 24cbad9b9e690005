"""Scores a model on the tasks of a dataset folder, by each task's official protocol."""

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from ressa.data import Batcher, CaptionedImage, DatasetFolder, Question, Sample
from ressa.data.prompts import CAPTION, QUESTION
from ressa.data.sample import image_key
from ressa.errors import UsageError
from ressa.evaluation.caption import describe_images
from ressa.evaluation.retrieval import retrieve
from ressa.evaluation.vqa import answer_questions
from ressa.provenance import fingerprint, versions

__all__ = ["TASKS", "evaluate"]

TASKS = ("vqa", "okvqa", "gqa", "caption", "retrieval")

AnySample = TypeVar("AnySample", bound=Sample)


class Vlm(Protocol):
    """What is evaluated: a transformers model and its processor."""

    model: Any
    processor: Any


def evaluate(
    vlm: Vlm,
    data: str | Path,
    tasks: Sequence[str] = TASKS,
    *,
    split: str = "test",
    limit: int | None = None,
    batch_size: int = 32,
    beams: int = 1,
    seed: int = 0,
    pool: int = 200,
    device: str | torch.device | None = None,
    question: str = QUESTION,
    caption: str = CAPTION,
) -> dict[str, Any]:
    """Score a model on each task of a dataset folder (layout: `ressa.data.folder`).

    Args:
        vlm: the model and its processor.
        data: the dataset folder.
        tasks: names out of `TASKS`.
        split: which split of the dataset.
        limit: images a task looks at, drawn with the seed; all questions about them are asked. None: all.
        batch_size: samples a forward pass takes.
        beams: beams of the generation; 1 is greedy.
        seed: of what is drawn.
        pool: images that retrieval ranks, with all their captions; drawn with the seed, at most `limit`.
        device: where to move the model first; None leaves it where it is.
        question: the prompt around a question, which goes where its `{}` is.
        caption: the prompt that asks for a caption.

    Returns JSON-able data: `tasks` (task → `score` on 0–100, or above for CIDEr-D, `n`, `kinds`, … as each
    task's module says), `average` of the scores, `split`, `limit`, `beams`, `seed`, `data` (name and
    fingerprint of everything that was asked), `computed_in` (a dtype), `versions`, `seconds`.

    Raises UsageError for an unknown task, a missing file or image, or a model that cannot do the task.
    """
    unknown = [task for task in tasks if task not in TASKS]
    if unknown or not tasks:
        what = f"task {unknown[0]!r} is unknown" if unknown else "no task was named"
        raise UsageError(f"{what}: choose some of {', '.join(TASKS)}.")
    if limit is not None and limit < 1:
        raise UsageError(f"a limit of {limit} images leaves nothing to evaluate: ask for at least one.")
    folder = DatasetFolder(data, question, caption)
    # All data is read before the model runs, so that a missing file is known at once.
    samples = {task: _draw(task, folder, split, limit, pool, seed) for task in tasks}
    model = vlm.model if device is None else vlm.model.to(device)
    was_training = model.training
    model.eval()
    torch.manual_seed(seed)  # nothing here draws numbers; a model's own code might
    started = time.perf_counter()
    try:
        results = {task: _run(task, model, vlm.processor, samples[task], beams, batch_size) for task in tasks}
    finally:
        model.train(was_training)
    return {
        "tasks": results,
        "average": sum(result["score"] for result in results.values()) / len(results),
        "split": split,
        "limit": limit,
        "beams": beams,
        "seed": seed,
        "data": {"name": folder.name, "fingerprint": _fingerprint(samples)},
        "computed_in": str(model.dtype).removeprefix("torch."),
        "versions": versions(),
        "seconds": round(time.perf_counter() - started, 1),
    }


def _run(
    task: str, model: Any, processor: Any, samples: list[Any], beams: int, batch_size: int
) -> dict[str, Any]:
    if task == "retrieval":
        return retrieve(model, processor, samples, batch_size=batch_size)
    batcher = Batcher(processor, model.config, getattr(model, "generation_config", None))
    if task == "caption":
        return describe_images(model, batcher, samples, beams=beams, batch_size=batch_size)
    return answer_questions(task, model, batcher, samples, beams=beams, batch_size=batch_size)


def _draw(task: str, folder: DatasetFolder, split: str, limit: int | None, pool: int, seed: int) -> list[Any]:
    """The task's samples, those of one image together."""
    readers: dict[str, Callable[[str], list[Question] | list[CaptionedImage]]] = {
        "vqa": folder.vqa,
        "okvqa": folder.okvqa,
        "gqa": folder.gqa,
        "caption": folder.captions,
        "retrieval": folder.retrieval,
    }
    if task == "retrieval":
        limit = min(pool, limit or pool)
    groups: dict[Any, list[Any]] = {}
    for sample in readers[task](split):
        groups.setdefault(image_key(sample), []).append(sample)
    images = list(groups)
    if limit is not None and limit < len(images):
        kept = set(random.Random(seed).sample(images, limit))
        images = [image for image in images if image in kept]
    return [sample for image in images for sample in groups[image]]


def _fingerprint(samples: dict[str, list[Any]]) -> str:
    """A digest of every prompt and reference, and of each image's name and size in bytes."""
    parts = []
    for task, asked in samples.items():
        parts.append(task)
        for sample in asked:
            references = sample.answers if isinstance(sample, Question) else sample.captions
            parts += [sample.id, sample.prompt, *references]
            parts += [sample.image.name, str(sample.image.stat().st_size)]
    return fingerprint(parts)
