"""Zero-shot classification: which class's name fits a picture best."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from ressa.data import DatasetFolder, LabelledImage
from ressa.data.prompts import CAPTION
from ressa.errors import UsageError
from ressa.evaluation.protocols import Settings
from ressa.evaluation.tasks.base import Asking, Task, apart, is_rank, percent

KS = (1, 5)


class ZeroShot(Task):
    """CLIP's zero-shot classification (arXiv 2103.00020, §3.1): every class's name is put into a prompt, or into
    several, and the class whose text scores best with a picture is its prediction. Several prompts of a class are one
    text: the mean of their embeddings, or of their scores where a text has no single embedding.

    A pair's score is what `scoring` says: the similarity of a dual encoder's embeddings, else the likelihood of the
    text given the picture, less its mean over the pictures, an estimate of how likely it is at all.

    The score is the accuracy; `top-5` counts the five best, `mean per class` weighs classes alike.

    The prediction of a picture: where its class was ranked (`metrics.recall.Rank`), and its five best classes.
    """

    def read(self, folder: DatasetFolder, split: str) -> Sequence[LabelledImage]:
        found: Sequence[LabelledImage] = folder.samples(self.data, split)
        classes = tuple(sorted({sample.label for sample in found}))
        return [replace(sample, classes=classes) for sample in found]

    def put(self, sample: LabelledImage, settings: Settings) -> list[LabelledImage]:
        return [replace(sample, prompt=settings.prompt)]

    def refuse(self, samples: Sequence[LabelledImage]) -> str | None:
        if len(samples[0].classes) < 2:
            return "All pictures are of one class: give pictures of two or more to choose among."
        return None

    def ask(self, asking: Asking, samples: Sequence[LabelledImage]) -> list[dict[str, Any]]:
        """Raises RunError where a score is no number."""
        import torch

        from ressa.evaluation.generation import no_numbers
        from ressa.evaluation.metrics.recall import ranks

        classes = samples[0].classes
        templates = templates_of(asking.settings.prompt)
        texts = [template.replace("{}", name) for name in classes for template in templates]
        scoring, scores = _scored(asking, samples, texts, len(templates))
        if scores.isnan().any():
            no_numbers(asking.model)
        own = torch.tensor([[name == sample.label for name in classes] for sample in samples])
        best = scores.topk(min(KS[-1], len(classes))).indices.tolist()
        return [
            {"scoring": scoring, "rank": asdict(rank), "best": [classes[each] for each in row]}
            for rank, row in zip(ranks(scores, own), best, strict=True)
        ]

    def score(
        self, predictions: Sequence[dict[str, Any]], samples: Sequence[LabelledImage], settings: Settings
    ) -> dict[str, Any]:
        from ressa.evaluation.metrics.recall import Rank

        ranks = [Rank(**prediction["rank"]) for prediction in predictions]
        right = {k: [rank.within(k) for rank in ranks] for k in KS}
        kinds = apart(right[1], [(sample.label,) for sample in samples])
        return {
            "score": percent(right[1]),
            "top-5": percent(right[5]),
            "mean per class": sum(kind["score"] for kind in kinds.values()) / len(kinds),
            "scoring": predictions[0]["scoring"],
            "n": len(samples),
            "classes": len(samples[0].classes),
            "by_class": kinds,
        }

    def accepts(self, prediction: Any, sample: LabelledImage) -> bool:
        return isinstance(prediction, dict) and "scoring" in prediction and is_rank(prediction.get("rank"))

    def references(self, sample: LabelledImage) -> list[str]:
        return [sample.label]


def templates_of(prompt: str) -> list[str]:
    """The prompts for a class's name, separated by |. Raises UsageError for one without a place for it."""
    templates = [each.strip() for each in prompt.split("|")]
    for template in templates:
        if template.count("{}") != 1:
            raise UsageError(f"the class prompt {template!r} needs one {{}} where the class's name goes.")
    return templates


def _scored(
    asking: Asking, samples: Sequence[LabelledImage], texts: list[str], prompts: int
) -> tuple[str, Any]:
    """What a score is, and the scores (pictures, classes). texts: `prompts` for each class."""
    from ressa.dual import is_dual_encoder
    from ressa.evaluation.embedding import score_by_embedding
    from ressa.evaluation.likelihood import score_pairs

    if is_dual_encoder(asking.model, asking.processor):
        scores = score_by_embedding(
            asking.model, asking.processor, samples, texts, batch_size=asking.batch_size, together=prompts
        )
        return "embeddings", scores
    asked = [replace(sample, prompt=CAPTION) for sample in samples]
    scores = score_pairs(
        asking.model, asking.batcher, asked, texts, batch_size=asking.batch_size, answers=asking.answers
    )
    return "likelihood, prior-corrected", (scores - scores.mean(0)).unflatten(1, (-1, prompts)).mean(2)
