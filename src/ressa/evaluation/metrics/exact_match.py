"""GQA's accuracy: the answer is right or it is not (Hudson and Manning 2019)."""

from ressa.evaluation.metrics.vqa_accuracy import normalise


def exact_match(prediction: str, answer: str) -> float:
    """1.0 where prediction and answer are equal once both are normalised as in VQA, else 0.0.

    GQA's own answers are lower-case words without punctuation, so normalising serves the prediction.
    """
    return float(normalise(prediction) == normalise(answer))
