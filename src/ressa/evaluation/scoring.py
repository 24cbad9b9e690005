"""Scores a model on samples that were drawn, by each task's official protocol."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from ressa.data.folder import AUTO
from ressa.evaluation.decoding import Decoding
from ressa.evaluation.drawing import Drawn, OnBadSample, draw
from ressa.evaluation.fitting import fitted
from ressa.evaluation.kept import Kept
from ressa.evaluation.tasks import Asking, task_named
from ressa.processes import from_first, is_first
from ressa.progress import console
from ressa.provenance import versions
from ressa.task_names import TASKS

Predictions = Mapping[str, Sequence[Any]]
"""Task → one prediction for each of its samples, JSON-able."""


class Vlm(Protocol):
    """What is evaluated: a transformers model and its processor."""

    model: Any
    processor: Any


@dataclass(frozen=True)
class Answered:
    """What a model said, in which dtype it computed, and how long that took."""

    predictions: Predictions
    computed_in: str
    seconds: float


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
    pool: int | None = 200,
    device: str | torch.device | None = None,
    protocol: str = "ressa",
    question: str | None = None,
    caption: str | None = None,
    on_bad: OnBadSample = "stop",
    follow_links: bool = False,
    **own: Any,
) -> dict[str, Any]:
    """Score a model on each task of a dataset folder (docs/data.md shows what is recognised).

    Args:
        vlm: the model and its processor.
        data: the dataset folder.
        tasks: names out of `task_names.EVERY_TASK`; one that the folder has nothing for is left out.
        split: which split of the dataset; `auto`: each task's test, testdev or val, the first that there is.
        limit: images a task looks at, drawn with the seed; all questions about them are asked. None: all.
        batch_size: samples a forward pass takes.
        decoding: other beams, lengths and penalties of the generation than the protocol's.
        seed: of what is drawn.
        pool: images that retrieval ranks, with all their captions; drawn with the seed, at most `limit`. None: all.
        device: where to move the model first; None leaves it where it is.
        protocol: how each task asks (`evaluation.protocols`).
        question: the prompt around a question, which goes where its `{}` is, instead of the protocol's.
        caption: the prompt that asks for a caption, likewise.
        on_bad: `stop` for samples that cannot be used, before any is asked, or `skip` them; either says which.
        follow_links: follow symbolic links that lead out of the dataset folder.
        own: other settings than the protocol's, by the names of `protocols.Settings`.

    Returns JSON-able data: `tasks` (task → `score` on 0–100, or above for CIDEr-D, `n`, `kinds`, … as each
    task's class says), `average` of the scores, `split` and `splits` (by task), `limit`, `asked` (task → its
    settings), `seed`, `data` (name and fingerprint of everything that was asked), `computed_in` (a dtype),
    `versions`, `seconds`.

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
        protocol=protocol,
        question=question,
        caption=caption,
        decoding=decoding,
        on_bad=on_bad,
        follow_links=follow_links,
        **own,
    )
    return score(vlm, fitted(drawn, vlm), batch_size=batch_size, device=device)


def score(
    vlm: Vlm,
    drawn: Drawn,
    *,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    kept: Kept | None = None,
) -> dict[str, Any]:
    """Score a model on what `draw` gave and `fitted` left; arguments and result are those of `evaluate`.

    kept: where answers are kept, and those of an earlier run of the same model and samples are found.
    """
    return result_of(drawn, answer(vlm, drawn, batch_size=batch_size, device=device, kept=kept))


def answer(
    vlm: Vlm,
    drawn: Drawn,
    *,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    kept: Kept | None = None,
) -> Answered:
    """Ask a model everything that was drawn; several processes share it out, and each is told all of it."""
    kept = Kept() if kept is None else kept
    model = vlm.model if device is None else vlm.model.to(device)
    was_training = model.training
    model.eval()
    torch.manual_seed(drawn.seed)  # nothing here draws numbers; a model's own code might
    started = time.perf_counter()
    if len(kept) and is_first():
        console.print(f"Going on where an earlier run was: it left {len(kept):,} answers.", highlight=False)
    try:
        predictions = {
            name: task_named(name).ask(
                Asking(model, vlm.processor, drawn.settings[name], batch_size, kept.of(name)), samples
            )
            for name, samples in drawn.samples.items()
        }
    finally:
        model.train(was_training)
    computed_in = str(model.dtype).removeprefix("torch.")
    return Answered(predictions, computed_in, round(time.perf_counter() - started, 1))


def result_of(drawn: Drawn, answered: Answered) -> dict[str, Any]:
    """The result of an evaluation; of several processes the first computes the scores."""
    rated = from_first(rate(drawn, answered.predictions) if is_first() else {}, torch.device("cpu"))
    return {
        **rated,
        "split": " and ".join(dict.fromkeys(drawn.splits.values())),
        "splits": drawn.splits,
        "limit": drawn.limit,
        "seed": drawn.seed,
        "data": {"name": drawn.name, "fingerprint": drawn.fingerprint},
        "computed_in": answered.computed_in,
        "versions": versions(),
        "seconds": answered.seconds,
    }


def rate(drawn: Drawn, predictions: Predictions) -> dict[str, Any]:
    """`tasks`, `average` and `asked` (the settings) of predictions of these samples."""
    results = {
        name: task_named(name).score(predictions[name], samples, drawn.settings[name])
        for name, samples in drawn.samples.items()
    }
    average = sum(result["score"] for result in results.values()) / len(results)
    asked = {name: drawn.settings[name].to_dict() for name in results}
    return {"tasks": results, "average": average, "asked": asked}
