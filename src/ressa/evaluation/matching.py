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
from ressa.evaluation.generation import keep_row, on_model
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
    batch_size: int = 64,
    answers: Answers | None = None,
) -> Tensor:
    """log-odds that image and caption match, for all pairs: float32 (images, captions) on the CPU.

    answers: rows that an earlier run scored, and where to keep the rest.
    """
    answers = Kept().of("retrieval") if answers is None else answers
    switch = {itm_switch(model) or "": True}
    processor = with_memory(processor)
    scores = torch.empty(len(images), len(captions))
    cache = ImageCache()
    with (
        bar("Matching image-caption pairs", scores.numel()) as progress,
        torch.inference_mode(),
        shared_vision(model) as sharing,
    ):
        for row, sample in enumerate(images):
            if row in answers.done:
                scores[row] = torch.tensor(answers.done[row])
                progress.advance(len(captions))
                continue
            for start in range(0, len(captions), batch_size):
                texts = list(captions[start : start + batch_size])
                inputs = _processed(processor, cache.load_single([sample] * len(texts)), texts)
                sharing.show([image_key(sample)] * len(texts))
                output = model(**on_model(inputs, model), **switch)
                logits = getattr(output, "itm_score", None)  # (B, 2): no match, match
                logits = (output.logits_per_image if logits is None else logits).float()
                scores[row, start : start + len(texts)] = (logits[:, 1] - logits[:, 0]).cpu()
                progress.advance(len(texts))
            keep_row(answers, row, scores, model)
    return scores


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
