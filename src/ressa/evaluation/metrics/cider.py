"""CIDEr-D (Vedantam et al. 2015), as COCO's scorer computes it."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

N = 4  # the longest n-grams
SIGMA = 6.0  # of the length penalty

Ngram = tuple[str, ...]


class _Vector(NamedTuple):
    """A caption's tf-idf weights of its n-grams, n by n; their lengths; how many 2-grams it has."""

    weights: list[dict[Ngram, float]]
    norms: list[float]
    length: int


def cider_d(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each image's caption against its reference captions; identical ones can reach 10.

    Captions are tokens joined by spaces (`tokens.py`). An n-gram weighs log(images / images whose references hold
    it), so one image alone scores nothing. The length is counted in 2-grams, as COCO's scorer does.
    """
    counted = [[_ngrams(caption) for caption in captions] for captions in references]
    found = Counter(
        ngram for captions in counted for ngram in {each for counts in captions for each in counts}
    )
    images = math.log(len(references))

    def vector(counts: Counter[Ngram]) -> _Vector:
        weights: list[dict[Ngram, float]] = [{} for _ in range(N)]
        for ngram, count in counts.items():
            weights[len(ngram) - 1][ngram] = count * (images - math.log(max(1, found[ngram])))
        norms = [math.sqrt(sum(weight**2 for weight in each.values())) for each in weights]
        return _Vector(weights, norms, sum(counts[ngram] for ngram in weights[1]))

    scores = []
    for said, captions in zip(predictions, counted, strict=True):
        caption = vector(_ngrams(said))
        total = sum(_similarity(caption, vector(counts)) for counts in captions)
        scores.append(10 * total / len(captions))
    return scores


def _ngrams(caption: str) -> Counter[Ngram]:
    words = caption.split()
    return Counter(tuple(words[at : at + n]) for n in range(1, N + 1) for at in range(len(words) - n + 1))


def _similarity(caption: _Vector, reference: _Vector) -> float:
    """The mean over n of the clipped cosines, times the Gaussian of the difference in length."""
    total = 0.0
    for weights, others, norm, other in zip(
        caption.weights, reference.weights, caption.norms, reference.norms, strict=True
    ):
        shared = sum(
            min(weight, others[ngram]) * others[ngram] for ngram, weight in weights.items() if ngram in others
        )
        total += shared / (norm * other) if norm and other else 0.0
    penalty = math.exp(-((caption.length - reference.length) ** 2) / (2 * SIGMA**2))
    return total / N * penalty
