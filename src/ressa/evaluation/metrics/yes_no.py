"""POPE's scores (Li et al. 2023): does a model see objects that are not there?"""

from collections.abc import Sequence

_NO = {"No", "not", "no"}


def says_yes(answer: str) -> bool:
    """POPE's reading of an answer: its first sentence, no commas; anything without No, no or not is a yes."""
    return not _NO & set(answer.split(".")[0].replace(",", "").split(" "))


def yes_no_scores(said: Sequence[bool], right: Sequence[bool]) -> dict[str, float]:
    """accuracy, precision, recall, f1 (of the yes answers) and yes_ratio, all 0–100; 0 where nothing can be divided.

    said: whether each prediction is a yes; right: whether each label is.
    """
    pairs = list(zip(said, right, strict=True))
    hits = pairs.count((True, True))
    precision = _share(hits, sum(said))
    recall = _share(hits, sum(right))
    return {
        "accuracy": 100 * _share(hits + pairs.count((False, False)), len(pairs)),
        "precision": 100 * precision,
        "recall": 100 * recall,
        "f1": 100 * _share(2 * precision * recall, precision + recall),
        "yes_ratio": 100 * _share(sum(said), len(pairs)),
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
