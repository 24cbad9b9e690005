"""Image-caption scores of models made for them: an image-text matching (ITM) head, or two encoders."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ressa.data import Sample
from ressa.data.images import ImageCache
from ressa.data.remembering import with_memory
from ressa.data.sample import image_key
from ressa.evaluation.generation import no_numbers, on_model
from ressa.evaluation.kept import Answers, Kept
from ressa.evaluation.shared_vision import shared_vision
from ressa.progress import bar

ITM_SWITCHES = ("use_itm_head", "use_image_text_matching_head")  # BLIP's, BLIP-2's name for one thing


def itm_switch(model: Any) -> str | None:
    """The forward argument that turns the model's ITM head on; None where it has no such head."""
    arguments = inspect.signature(model.forward).parameters
    return next((name for name in ITM_SWITCHES if name in arguments), None)


def is_dual_encoder(model: Any) -> bool:
    """Whether images and texts are embedded apart, into one space (CLIP, SigLIP, …)."""
    return hasattr(model, "get_text_features") and hasattr(model, "get_image_features")


def scores_itself(model: Any) -> bool:
    """Whether the model is made to score pairs; else the likelihood of its words must do."""
    return itm_switch(model) is not None or (is_dual_encoder(model) and not model.can_generate())


def score_by_itm(
    model: Any,
    processor: Any,
    images: Sequence[Sample],
    captions: Sequence[str],
    *,
    candidates: int = 128,
    batch_size: int = 64,
    answers: Answers | None = None,
) -> tuple[Tensor, Tensor]:
    """Re-ranking as BLIP and BLIP-2 do: the ITM head looks at the most similar candidates only.

    A pair's score is the head's logit of a match plus the pair's similarity; pairs that are no candidates have −∞.
    Returns two float32 (images, captions) on the CPU: with each image's most similar captions, and with each caption's
    most similar images. answers: rows that an earlier run scored, and where to keep the rest.
    """
    answers = Kept().of("retrieval") if answers is None else answers
    switch = {itm_switch(model) or "": True}
    processor = with_memory(processor)
    similar = similarities(model, processor, images, captions, batch_size=batch_size)
    for_images, for_captions = _nearest(similar, candidates, 1), _nearest(similar, candidates, 0)
    needed = [row.nonzero()[:, 0] for row in for_images | for_captions]
    left = answers.share([[row] for row in range(len(images))])
    cache = ImageCache()
    with (
        bar("Matching image-caption pairs", sum(len(needed[row]) for (row,) in left)) as progress,
        torch.inference_mode(),
        shared_vision(model) as sharing,
    ):
        for (row,) in left:
            found = []
            for columns in needed[row].split(batch_size):
                texts = [captions[column] for column in columns]
                inputs = _processed(processor, cache.load_single([images[row]] * len(texts)), texts)
                sharing.show([image_key(images[row])] * len(texts))
                logits = _output(model(**on_model(inputs, model), **switch))  # (B, 2): no match, match
                found.append(logits[:, 1])
                progress.advance(len(texts))
            scores = torch.cat(found) if found else torch.empty(0)
            if scores.isnan().any():
                no_numbers(model)
            answers.keep({row: scores.tolist()})
    answers.gather()
    matches = torch.zeros_like(similar)
    for row, columns in enumerate(needed):
        matches[row, columns] = torch.tensor(answers.done[row])
    scores = matches + similar
    return scores.masked_fill(~for_images, -torch.inf), scores.masked_fill(~for_captions, -torch.inf)


def similarities(
    model: Any, processor: Any, images: Sequence[Sample], captions: Sequence[str], *, batch_size: int = 64
) -> Tensor:
    """The contrastive similarity of all pairs, by a model with an ITM head: float32 (images, captions) on the CPU."""
    switch = {itm_switch(model) or "": False}
    cache = ImageCache()
    first = cache.load_single(images[:1])
    wide = 8 * batch_size  # every batch of captions sends its images through the vision tower anew
    rows = []
    with (
        bar("Comparing images and captions", len(images) * len(captions)) as progress,
        torch.inference_mode(),
    ):
        for start in range(0, len(images), batch_size):
            part = images[start : start + batch_size]
            pixels = dict(processor.image_processor(cache.load_single(part), return_tensors="pt"))
            row = []
            for begin in range(0, len(captions), wide):
                texts = list(captions[begin : begin + wide])
                inputs = {**_processed(processor, first * len(texts), texts), **pixels}
                row.append(_output(model(**on_model(inputs, model), **switch)))
                progress.advance(len(part) * len(texts))
            rows.append(torch.cat(row, 1))
    return torch.cat(rows)


def _output(output: Any) -> Tensor:
    scores = getattr(output, "itm_score", None)
    return (output.logits_per_image if scores is None else scores).float().cpu()


def _nearest(similar: Tensor, count: int, along: int) -> Tensor:
    """bool like `similar`: the `count` highest along a dimension."""
    places = similar.topk(min(count, similar.shape[along]), along).indices
    return torch.zeros_like(similar, dtype=torch.bool).scatter_(along, places, True)


def score_by_cosine(
    model: Any, processor: Any, images: Sequence[Sample], captions: Sequence[str], *, batch_size: int = 64
) -> Tensor:
    """Cosine similarity of all pairs of embeddings: float32 (images, captions) on the CPU."""
    cache = ImageCache()
    seen, read = [], []
    with (
        bar("Embedding images and captions", len(images) + len(captions)) as progress,
        torch.inference_mode(),
    ):
        for start in range(0, len(images), batch_size):
            part = images[start : start + batch_size]
            inputs = processor.image_processor(cache.load_single(part), return_tensors="pt")
            seen.append(_unit(model.get_image_features(**on_model(dict(inputs), model))))
            progress.advance(len(part))
        for start in range(0, len(captions), batch_size):
            texts = list(captions[start : start + batch_size])
            # SigLIP learnt its texts padded to their full length; where there is a mask, padding is nothing.
            full = "attention_mask" not in processor.tokenizer.model_input_names
            options = {"padding": "max_length" if full else True, "truncation": True}
            inputs = processor.tokenizer(texts, return_tensors="pt", **options)
            read.append(_unit(model.get_text_features(**on_model(dict(inputs), model))))
            progress.advance(len(texts))
    return torch.cat(seen) @ torch.cat(read).T


def _processed(processor: Any, images: list[Image.Image], texts: list[str]) -> dict[str, Tensor]:
    return dict(processor(images=images, text=texts, padding=True, truncation=True, return_tensors="pt"))


def _unit(features: Any) -> Tensor:
    """Embeddings (B, d) of length one; transformers 5 wraps them in an output object."""
    return torch.nn.functional.normalize(getattr(features, "pooler_output", features).float(), dim=-1).cpu()
