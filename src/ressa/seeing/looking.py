"""One model asked where it looks: what it says to each question, and two maps of each."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ressa.anatomy import find_anatomy
from ressa.checkpoint import Vlm
from ressa.data import Batcher, Question
from ressa.evaluation.generation import generate
from ressa.evaluation.protocols import settings_of
from ressa.progress import track
from ressa.seeing.agreement import mean, pearson, pointing, spearman
from ressa.seeing.occlusion import occlusion_map
from ressa.seeing.places import Place
from ressa.seeing.route import NoMap, attention_maps

Grid = list[list[float]]
KINDS = ("attention", "occlusion")
EAGER = 8  # times the memory of another forward, at least, for attention that is written out


@dataclass(frozen=True)
class Look:
    """What a model made of one question. log_probability: log p of the words asked for (nats). attention: shares
    that sum to 1, None where there is no such map; occlusion: nats (`ressa.seeing.occlusion`)."""

    answer: str
    log_probability: float
    attention: Grid | None
    occlusion: Grid

    def map(self, kind: str) -> np.ndarray | None:
        grid = getattr(self, kind)
        return None if grid is None else np.array(grid)


@dataclass(frozen=True)
class Looks:
    """All of a model's. words: what its maps are of, for each question. no_attention: why there are no maps of
    attention, empty where there are."""

    words: list[str]
    looks: list[Look]
    no_attention: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Looks":
        looks = [Look(**each) for each in values["looks"]]
        return cls(list(values["words"]), looks, values["no_attention"])


def look(
    vlm: Vlm, questions: Sequence[Question], words: Sequence[str] | None = None, *, batch_size: int = 32
) -> Looks:
    """Ask a model, on the device it is on. questions: each with one picture and an answer.

    words: the answers that the maps explain, so that those of several models are about the same (the dense
    model's); by default its own, or the reference where it says nothing.
    """
    model: Any = vlm.model
    batcher = Batcher(vlm.processor, model.config, getattr(model, "generation_config", None))
    answers = generate(
        model,
        batcher,
        questions,
        **settings_of("vqa").generation(),
        batch_size=batch_size,
        description="Asking",
    )
    if words is None:
        words = [said.strip() or asked.answers[0] for said, asked in zip(answers, questions, strict=True)]
    explained = [replace(asked, target=said) for asked, said in zip(questions, words, strict=True)]
    attention, why = _attention(model, batcher, explained, max(1, batch_size // EAGER))
    looks = []
    for answer, sample, seen in zip(
        answers, track(explained, "Hiding parts of pictures"), attention, strict=True
    ):
        whole, drop = occlusion_map(model, batcher, sample, batch_size=batch_size)
        looks.append(Look(answer, round(whole, 5), seen, _plain(drop)))
    return Looks(list(words), looks, why)


def _attention(
    model: Any, batcher: Batcher, samples: Sequence[Question], batch_size: int
) -> tuple[list[Grid | None], str]:
    """A map of each sample, or none and why."""
    anatomy = find_anatomy(model)
    found: list[Grid | None] = []
    try:
        for start in range(0, len(samples), batch_size):
            part = attention_maps(model, batcher, anatomy, samples[start : start + batch_size])
            found += [_plain(each) for each in part]
    except NoMap as reason:
        return [None] * len(samples), str(reason)
    return found, ""


def _plain(grid: Any) -> Grid:
    return [[float(f"{value:.4g}") for value in row] for row in grid.tolist()]


def compare_looks(
    reference: Looks, other: Looks, places: Sequence[Sequence[Place]] | None = None
) -> dict[str, Any]:
    """How a model's looks differ from those of the dense one, as JSON-able means over the questions.

    same_answers: the share of questions that it answers in the same words. For each kind of map that both have:
    `pearson` and `spearman`, the correlation with the dense model's map; `pearson_same`, that over the questions which
    both answer alike (None without any); `strangers`, Pearson's with the dense model's map of the question
    before, which is what maps have in common whatever is asked; and where places are named `hit`, `mass` and
    `area` (`pointing`) and `named`, over how many questions.

    places: for each question where what it names is; empty where that is not known.
    """
    pairs = list(zip(reference.looks, other.looks, strict=True))
    same = [_said(a) == _said(b) for a, b in pairs]
    result: dict[str, Any] = {"questions": len(pairs), "same_answers": mean([float(each) for each in same])}
    for kind in KINDS:
        maps = [(a.map(kind), b.map(kind)) for a, b in pairs]
        whole = [(a, b) for a, b in maps if a is not None and b is not None and a.shape == b.shape]
        if len(whole) < len(pairs) or not pairs:
            continue
        own = [pearson(a, b) for a, b in whole]
        others = [pearson(whole[i - 1][0], b) for i, (_, b) in enumerate(whole) if len(whole) > 1]
        result[kind] = {
            "pearson": mean(own),
            "spearman": mean([spearman(a, b) for a, b in whole]),
            "pearson_same": mean([value for value, alike in zip(own, same, strict=True) if alike]),
            "strangers": mean(others),
        }
        points = [
            pointing(b, where) for (_, b), where in zip(whole, places or [], strict=bool(places)) if where
        ]
        if points:
            result[kind] |= {key: mean([point[key] for point in points]) for key in points[0]}
            result[kind]["named"] = len(points)
    return result


def _said(look: Look) -> str:
    return look.answer.strip().lower()
