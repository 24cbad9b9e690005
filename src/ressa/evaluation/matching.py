"""Image-caption scores by an image-text matching (ITM) head, which looks at the pairs whose embeddings are nearest."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ressa.data import Sample
from ressa.data.images import ImageCache
from ressa.data.remembering import with_memory
from ressa.data.sample import image_key
from ressa.data.untouched import untouched
from ressa.dual import itm_switch
from ressa.evaluation.embedding import score_by_embedding
from ressa.evaluation.generation import no_numbers, on_model
from ressa.evaluation.kept import Answers, Kept
from ressa.evaluation.shared_vision import shared_vision
from ressa.misfit import misfit_told
from ressa.progress import bar


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
    similar = score_by_embedding(model, processor, images, captions, batch_size=batch_size)
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
                with misfit_told():
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


def _output(output: Any) -> Tensor:
    scores = getattr(output, "itm_score", None)
    return (output.logits_per_image if scores is None else scores).float().cpu()


def _nearest(similar: Tensor, count: int, along: int) -> Tensor:
    """bool like `similar`: the `count` highest along a dimension."""
    places = similar.topk(min(count, similar.shape[along]), along).indices
    return torch.zeros_like(similar, dtype=torch.bool).scatter_(along, places, True)


def _processed(processor: Any, images: list[Image.Image], texts: list[str]) -> dict[str, Tensor]:
    with untouched(processor):
        return dict(processor(images=images, text=texts, padding=True, truncation=True, return_tensors="pt"))
