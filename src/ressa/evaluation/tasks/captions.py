"""Captions: CIDEr-D and its kin, and where the data names each image's objects, how many of them are mentioned."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ressa.data import CaptionedImage
from ressa.evaluation.metrics.captions import score_captions
from ressa.evaluation.metrics.object_recall import object_recall
from ressa.evaluation.protocols import Settings
from ressa.evaluation.tasks.base import Asking, Task, apart
from ressa.warned import warn


class Captions(Task):
    """score (CIDEr-D × 100), metric, n, BLEU-4 and what else was asked for (0–100); recall (0–100) where the dataset
    names objects; kinds: likewise where it has such."""

    def put(self, sample: CaptionedImage, settings: Settings) -> list[CaptionedImage]:
        return [replace(sample, prompt=settings.prompt)]

    def ask(self, asking: Asking, samples: Sequence[CaptionedImage]) -> list[str]:
        return asking.generate(samples, self.doing)

    def score(
        self, predictions: Sequence[str], samples: Sequence[CaptionedImage], settings: Settings
    ) -> dict[str, Any]:
        found = score_captions(predictions, [sample.captions for sample in samples], settings.caption_metrics)
        for sentence in found.unavailable:
            warn(sentence)
        result: dict[str, Any] = {
            "score": 100 * sum(found.cider) / len(samples),
            "metric": found.metric,
            "n": len(samples),
            **found.more,
        }
        if any(sample.kinds for sample in samples):
            result["kinds"] = apart(found.cider, [sample.kinds for sample in samples])
        if any(sample.objects for sample in samples):
            result["recall"] = 100 * object_recall(predictions, [sample.objects for sample in samples])
        return result

    def references(self, sample: CaptionedImage) -> list[str]:
        return list(sample.captions)

    def refuse(self, samples: Sequence[CaptionedImage]) -> str | None:
        if len(samples) < 2:
            return "CIDEr-D weighs words by how few images they fit: caption at least two images."
        return None
