"""Retrieval among a pool of images and their captions, both ways, by the score a model gives a pair."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from ressa.data import CaptionedImage
from ressa.evaluation.protocols import Settings
from ressa.evaluation.tasks.base import Asking, Task, is_rank

if TYPE_CHECKING:
    from torch import Tensor

KS = (1, 5, 10)
PRIOR = "TR@1 prior-corrected"


class Retrieval(Task):
    """TR@k: the share of images that have one of their own captions among their k best; IR@k: the share of captions
    whose image is among their k best. The score is the mean of TR@1 and IR@1.

    `scoring` says what a pair's score is: an image-text matching head's logit (with the similarity of the pair, among
    the most similar candidates: BLIP's re-ranking), the similarity of a dual encoder's embeddings, else the caption's
    log-likelihood given the image. A likelihood also tells how likely a caption is at all, which favours short, common
    ones over an image's own. `TR@1 prior-corrected` ranks by the log-likelihood minus its mean over the pool's images,
    an estimate of that part; IR compares images for one caption, so the correction cannot change it.

    The prediction of an image: where its captions, and it among the images for each of its captions, were ranked
    (`metrics.recall.Rank`), and its ten best captions.
    """

    def put(self, sample: CaptionedImage, settings: Settings) -> list[CaptionedImage]:
        return [replace(sample, prompt=settings.prompt)]

    def ask(self, asking: Asking, samples: Sequence[CaptionedImage]) -> list[dict[str, Any]]:
        """Raises RunError where a score is no number."""
        import torch

        from ressa.evaluation.generation import no_numbers
        from ressa.evaluation.metrics.recall import owners, ranks

        captions = [caption for image in samples for caption in image.captions]
        texts = list(dict.fromkeys(captions))  # equal captions are scored once, and tie exactly
        place = {text: column for column, text in enumerate(texts)}
        columns = [place[caption] for caption in captions]
        scoring, by_image, by_caption = _scored(asking, samples, texts)
        if by_image.isnan().any() or by_caption.isnan().any():
            no_numbers(asking.model)
        by_image, by_caption = by_image[:, columns], by_caption[:, columns]
        own = owners(
            torch.tensor([row for row, image in enumerate(samples) for _ in image.captions]), len(samples)
        )
        found = ranks(by_image, own)
        of_captions = iter(ranks(by_caption.T, own.T))
        best = by_image.topk(min(KS[-1], len(captions))).indices.tolist()
        predictions: list[dict[str, Any]] = [
            {
                "scoring": scoring,
                "text": asdict(found[row]),
                "image": [asdict(next(of_captions)) for _ in image.captions],
                "best": [captions[column] for column in best[row]],
            }
            for row, image in enumerate(samples)
        ]
        if scoring == "likelihood":
            for prediction, rank in zip(predictions, ranks(by_image - by_image.mean(0), own), strict=True):
                prediction["prior-corrected"] = asdict(rank)
        return predictions

    def score(
        self, predictions: Sequence[dict[str, Any]], samples: Sequence[CaptionedImage], settings: Settings
    ) -> dict[str, Any]:
        from ressa.evaluation.metrics.recall import Rank, recall_at

        texts = [Rank(**prediction["text"]) for prediction in predictions]
        images = [Rank(**rank) for prediction in predictions for rank in prediction["image"]]
        result: dict[str, Any] = {f"TR@{k}": 100 * recall_at(texts, k) for k in KS}
        result |= {f"IR@{k}": 100 * recall_at(images, k) for k in KS}
        result = {"score": (result["TR@1"] + result["IR@1"]) / 2, **result}
        result |= {"scoring": predictions[0]["scoring"], "n": len(samples), "captions": len(images)}
        if all("prior-corrected" in prediction for prediction in predictions):
            corrected = [Rank(**prediction["prior-corrected"]) for prediction in predictions]
            result[PRIOR] = 100 * recall_at(corrected, 1)
        return result

    def accepts(self, prediction: Any, sample: CaptionedImage) -> bool:
        if not isinstance(prediction, dict) or not isinstance(prediction.get("image"), list):
            return False
        ranks = [prediction.get("text"), *prediction["image"], prediction.get("prior-corrected")]
        return (
            isinstance(prediction.get("scoring"), str)
            and len(prediction["image"]) == len(sample.captions)
            and all(map(is_rank, ranks if ranks[-1] is not None else ranks[:-1]))
        )

    def references(self, sample: CaptionedImage) -> list[str]:
        return list(sample.captions)


def _scored(
    asking: Asking, images: Sequence[CaptionedImage], texts: list[str]
) -> tuple[str, "Tensor", "Tensor"]:
    """What a score is, and the scores (images, texts) to rank texts for each image by, and images for each text."""
    from ressa.dual import is_dual_encoder, itm_switch
    from ressa.evaluation.embedding import score_by_embedding
    from ressa.evaluation.likelihood import score_pairs
    from ressa.evaluation.matching import score_by_itm

    model, processor, size = asking.model, asking.processor, asking.batch_size
    if itm_switch(model):
        candidates = asking.settings.rerank
        both = score_by_itm(
            model, processor, images, texts, candidates=candidates, batch_size=size, answers=asking.answers
        )
        return f"ITM head, {candidates} candidates", *both
    if is_dual_encoder(model, processor):
        scores = score_by_embedding(model, processor, images, texts, batch_size=size)
        return "embeddings", scores, scores
    scores = score_pairs(model, asking.batcher, images, texts, batch_size=size, answers=asking.answers)
    return "likelihood", scores, scores
