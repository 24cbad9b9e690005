"""Scores a model on samples that were drawn, by each task's official protocol."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from ressa.data import Batcher
from ressa.data.folder import AUTO
from ressa.data.prompts import CAPTION, QUESTION
from ressa.evaluation.caption import describe_images
from ressa.evaluation.decoding import Decoding
from ressa.evaluation.drawing import TASKS, Drawn, OnBadSample, draw
from ressa.evaluation.fitting import fitted
from ressa.evaluation.kept import Kept
from ressa.evaluation.retrieval import retrieve
from ressa.evaluation.vqa import answer_questions
from ressa.progress import console
from ressa.provenance import versions


class Vlm(Protocol):
    """What is evaluated: a transformers model and its processor."""

    model: Any
    processor: Any


def evaluate(
    vlm: Vlm,
    data: str | Path,
    tasks: Sequence[str] = TASKS,
    *,
    split: str = AUTO,
    limit: int | None = None,
    batch_size: int = 32,
    decoding: Decoding | None = None,
    seed: int = 0,
    pool: int = 200,
    device: str | torch.device | None = None,
    question: str = QUESTION,
    caption: str = CAPTION,
    on_bad: OnBadSample = "stop",
    follow_links: bool = False,
) -> dict[str, Any]:
    """Score a model on each task of a dataset folder (docs/data.md shows which are recognised).

    Args:
        vlm: the model and its processor.
        data: the dataset folder.
        tasks: names out of `TASKS`.
        split: which split of the dataset; `auto`: each task's test, testdev or val, the first that there is.
        limit: images a task looks at, drawn with the seed; all questions about them are asked. None: all.
        batch_size: samples a forward pass takes.
        decoding: beams, lengths and penalties of the generation; greedy by default.
        seed: of what is drawn.
        pool: images that retrieval ranks, with all their captions; drawn with the seed, at most `limit`.
        device: where to move the model first; None leaves it where it is.
        question: the prompt around a question, which goes where its `{}` is.
        caption: the prompt that asks for a caption.
        on_bad: `stop` for samples that cannot be used, before any is asked, or `skip` them; either says which.
        follow_links: follow symbolic links that lead out of the dataset folder.

    Returns JSON-able data: `tasks` (task → `score` on 0–100, or above for CIDEr-D, `n`, `kinds`, … as each
    task's module says), `average` of the scores, `split` and `splits` (by task), `limit`, `decoding`, `seed`, `data`
    (name and fingerprint of everything that was asked), `computed_in` (a dtype), `versions`, `seconds`.

    Raises UsageError for an unknown task, a missing file or image, samples that cannot be used, or a model that
    cannot do the task; RunError where the model computes no numbers (NaN).
    """
    # All data is read before the model runs, so that a missing file is known at once.
    drawn = draw(
        data,
        tasks,
        split=split,
        limit=limit,
        pool=pool,
        seed=seed,
        question=question,
        caption=caption,
        on_bad=on_bad,
        follow_links=follow_links,
    )
    return score(vlm, fitted(drawn, vlm, decoding), batch_size=batch_size, decoding=decoding, device=device)


def score(
    vlm: Vlm,
    drawn: Drawn,
    *,
    batch_size: int = 32,
    decoding: Decoding | None = None,
    device: str | torch.device | None = None,
    kept: Kept | None = None,
) -> dict[str, Any]:
    """Score a model on what `draw` gave and `fitted` left; arguments and result are those of `evaluate`.

    kept: where answers are kept, and those of an earlier run of the same model and samples are found.
    """
    kept = Kept() if kept is None else kept
    decoding = Decoding() if decoding is None else decoding
    model = vlm.model if device is None else vlm.model.to(device)
    was_training = model.training
    model.eval()
    torch.manual_seed(drawn.seed)  # nothing here draws numbers; a model's own code might
    started = time.perf_counter()
    if len(kept):
        console.print(f"Going on where an earlier run was: it left {len(kept):,} answers.", highlight=False)
    try:
        results = {
            task: _run(task, model, vlm.processor, samples, decoding, batch_size, kept)
            for task, samples in drawn.samples.items()
        }
    finally:
        model.train(was_training)
    return {
        "tasks": results,
        "average": sum(result["score"] for result in results.values()) / len(results),
        "split": " and ".join(dict.fromkeys(drawn.splits.values())),
        "splits": drawn.splits,
        "limit": drawn.limit,
        "decoding": decoding.to_dict(),
        "seed": drawn.seed,
        "data": {"name": drawn.name, "fingerprint": drawn.fingerprint},
        "computed_in": str(model.dtype).removeprefix("torch."),
        "versions": versions(),
        "seconds": round(time.perf_counter() - started, 1),
    }


def _run(
    task: str, model: Any, processor: Any, samples: list[Any], decoding: Decoding, batch_size: int, kept: Kept
) -> dict[str, Any]:
    answers = kept.of(task)
    if task == "retrieval":
        return retrieve(model, processor, samples, batch_size=batch_size, answers=answers)
    batcher = Batcher(processor, model.config, getattr(model, "generation_config", None))
    options: dict[str, Any] = {"decoding": decoding, "batch_size": batch_size, "answers": answers}
    if task == "caption":
        return describe_images(model, batcher, samples, **options)
    return answer_questions(task, model, batcher, samples, **options)
