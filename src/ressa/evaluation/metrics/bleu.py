"""BLEU (Papineni et al. 2002) over a whole set of captions, as COCO's scorer computes it."""

import math
from collections import Counter
from collections.abc import Sequence

_SMALL, _TINY = 1e-9, 1e-15  # COCO's, against divisions by nothing


def bleu(predictions: Sequence[str], references: Sequence[Sequence[str]], n: int = 4) -> float:
    """BLEU-n in [0, 1]: clipped precisions of 1- to n-grams, and the penalty by the closest reference lengths.

    Captions are tokens joined by spaces (`tokens.py`).
    """
    length = reference_length = 0
    guessed, right = [0] * n, [0] * n
    for said, captions in zip(predictions, references, strict=True):
        words = said.split()
        length += len(words)
        lengths = [len(caption.split()) for caption in captions]
        reference_length += min((abs(each - len(words)), each) for each in lengths)[1]
        for k in range(1, n + 1):
            most: Counter[tuple[str, ...]] = Counter()
            for caption in captions:
                most |= _ngrams(caption.split(), k)
            right[k - 1] += (_ngrams(words, k) & most).total()
            guessed[k - 1] += max(0, len(words) - k + 1)
    product = 1.0
    for hits, guesses in zip(right, guessed, strict=True):
        product *= (hits + _TINY) / (guesses + _SMALL)
    ratio = (length + _TINY) / (reference_length + _SMALL)
    return product ** (1 / n) * (math.exp(1 - 1 / ratio) if ratio < 1 else 1.0)


def _ngrams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[at : at + n]) for at in range(len(words) - n + 1))
