"""Retrieval among a pool of images and their captions, both ways, by the score a model gives a pair."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ressa.data import Batcher, CaptionedImage
from ressa.evaluation.generation import no_numbers
from ressa.evaluation.kept import Answers, Kept
from ressa.evaluation.likelihood import score_pairs
from ressa.evaluation.matching import itm_switch, score_by_cosine, score_by_itm, scores_itself
from ressa.evaluation.metrics.recall_at_one import recall_at_one


def retrieve(
    model: Any,
    processor: Any,
    images: Sequence[CaptionedImage],
    *,
    batch_size: int,
    answers: Answers | None = None,
) -> dict[str, Any]:
    """Score all pairs: {score (mean of both, 0–100), TR@1, IR@1, scoring, n, captions, …}.

    TR@1: the share of images whose best caption among all is one of their own; IR@1: the share of captions
    whose best image is their own. `scoring` says what a pair's score is: the ITM head's log-odds where the
    model has one, the cosine of two encoders, else the caption's log-likelihood given the image.

    A likelihood also tells how likely a caption is at all, which favours short, common ones over an image's
    own. `TR@1 prior-corrected` ranks by the log-likelihood minus its mean over the pool's images, an estimate
    of that part; IR@1 compares images for one caption, so the correction cannot change it.

    answers: the rows of scores that an earlier run computed, and where to keep the rest. Raises RunError where a
    score is no number.
    """
    own = torch.tensor([row for row, image in enumerate(images) for _ in image.captions])
    captions = [caption for image in images for caption in image.captions]
    texts = list(dict.fromkeys(captions))  # equal captions are scored once, and tie exactly
    place = {text: column for column, text in enumerate(texts)}
    scoring, scores = _score(
        model, processor, images, texts, batch_size, Kept().of("retrieval") if answers is None else answers
    )
    if scores.isnan().any():
        no_numbers(model)
    scores = scores[:, [place[caption] for caption in captions]]
    recall = recall_at_one(scores, own)
    result: dict[str, Any] = {
        "score": 50 * (recall.text + recall.image),
        "TR@1": 100 * recall.text,
        "IR@1": 100 * recall.image,
        "scoring": scoring,
        "n": len(images),
        "captions": len(captions),
    }
    if scoring == "likelihood":
        result["TR@1 prior-corrected"] = 100 * recall_at_one(scores - scores.mean(0), own).text
    return result


def _score(
    model: Any,
    processor: Any,
    images: Sequence[CaptionedImage],
    texts: list[str],
    batch_size: int,
    answers: Answers,
) -> tuple[str, Tensor]:
    if itm_switch(model):
        return "ITM head", score_by_itm(
            model, processor, images, texts, batch_size=batch_size, answers=answers
        )
    if scores_itself(model):
        return "cosine", score_by_cosine(model, processor, images, texts, batch_size=batch_size)
    batcher = Batcher(processor, model.config, getattr(model, "generation_config", None))
    return "likelihood", score_pairs(model, batcher, images, texts, batch_size=batch_size, answers=answers)
