"""Captions against what people wrote: CIDEr-D and BLEU-4 here, METEOR and SPICE by pycocoevalcap's Java programs."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ressa.errors import UsageError
from ressa.evaluation.metrics.bleu import bleu
from ressa.evaluation.metrics.cider import cider_d
from ressa.evaluation.metrics.tokens import (
    coco_tools,
    have_coco_tools,
    have_java,
    missing_for_ptb,
    ptb_tokenize,
    regex_tokenize,
)

OFFICIAL = "CIDEr-D"
WITHOUT_JAVA = "CIDEr-D (regex tokenizer)"

SPICE_MODELS = "stanford-corenlp-3.6.0-models.jar"


@dataclass(frozen=True)
class CaptionScores:
    """`cider`: CIDEr-D of each image (identical captions can reach 10; papers print the mean × 100), called `metric`;
    `more`: the others by name, 0–100, over all images; `unavailable`: a sentence for each that cannot be computed here.
    """

    cider: list[float]
    metric: str
    more: dict[str, float] = field(default_factory=dict)
    unavailable: list[str] = field(default_factory=list)


def score_captions(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    metrics: Sequence[str] = ("cider", "bleu"),
) -> CaptionScores:
    """One caption an image against its reference captions; metrics: names out of `task_names.CAPTION_METRICS`.

    Captions are split by the Stanford PTB tokenizer, as COCO's evaluation does, where Java and pycocoevalcap are there;
    elsewhere by `regex_tokenize`, and the metric is then named differently, for the figures are not quite the same.
    Word weights come from the references given, so at least two images are needed (UsageError).
    """
    if len(predictions) < 2:
        raise UsageError("CIDEr-D weighs words by how few images they fit: score at least two images.")
    missing = missing_for_ptb()
    unavailable = []
    if missing is not None:
        unavailable.append(
            f"{missing}, so captions are split by ressa's own tokenizer instead of the PTB tokenizer and the figure is "
            f"called '{WITHOUT_JAVA}'."
        )
    tokenize = ptb_tokenize if missing is None else regex_tokenize
    tokens = tokenize([*predictions, *(caption for captions in references for caption in captions)])
    said, rest = tokens[: len(predictions)], iter(tokens[len(predictions) :])
    truth = [[next(rest) for _ in captions] for captions in references]
    scores = cider_d(said, truth)
    more = {"BLEU-4": 100 * bleu(said, truth)} if "bleu" in metrics else {}
    if "meteor" in metrics:
        if missing is None:
            more["METEOR"] = 100 * _meteor(said, truth)
        else:
            unavailable.append(f"{missing}, so there is no METEOR.")
    if "spice" in metrics:
        if (lacks := _missing_for_spice()) is None:
            more["SPICE"] = 100 * _spice(said, truth)
        else:
            unavailable.append(f"{lacks}, so there is no SPICE.")
    return CaptionScores(scores, OFFICIAL if missing is None else WITHOUT_JAVA, more, unavailable)


def _meteor(said: list[str], truth: list[list[str]]) -> float:
    from pycocoevalcap.meteor.meteor import Meteor

    score, _ = Meteor().compute_score(dict(enumerate(truth)), {row: [each] for row, each in enumerate(said)})
    return float(score)


def _missing_for_spice() -> str | None:
    """SPICE needs a parser that pycocoevalcap downloads; nothing is downloaded from here."""
    if not have_coco_tools() or not have_java():
        return missing_for_ptb()
    if not (coco_tools() / "spice" / "lib" / SPICE_MODELS).is_file():
        return "SPICE's parser is not there (python -m pycocoevalcap.spice.get_stanford_models downloads it)"
    return None


def _spice(said: list[str], truth: list[list[str]]) -> float:
    from pycocoevalcap.spice.spice import Spice

    score, _ = Spice().compute_score(dict(enumerate(truth)), {row: [each] for row, each in enumerate(said)})
    return float(score)
