"""VizWiz' second question (Gurari et al. 2018): can what was asked be answered from the picture at all?"""

from collections.abc import Sequence


def average_precision(labels: Sequence[bool], scores: Sequence[float]) -> float:
    """Σ (Rₙ − Rₙ₋₁) Pₙ over the thresholds, in [0, 1]: precision and recall of what scores at least as high.

    labels: what is to be found; scores: higher for what is found sooner; equal ones are found together. 0 where there
    is nothing to find.
    """
    positives = sum(labels)
    if not positives:
        return 0.0
    total = found = seen = 0.0
    for threshold in sorted(set(scores), reverse=True):
        group = [label for label, score in zip(labels, scores, strict=True) if score == threshold]
        seen += len(group)
        found += sum(group)
        total += sum(group) / positives * found / seen
    return total


def f1_score(labels: Sequence[bool], said: Sequence[bool]) -> float:
    """2 · hits / (labels + said), in [0, 1]; 0 where there are none."""
    hits = sum(label and each for label, each in zip(labels, said, strict=True))
    return 2 * hits / (sum(labels) + sum(said)) if sum(labels) + sum(said) else 0.0
