"""GQA's accuracy: the answer is right or it is not (Hudson and Manning 2019)."""

from ressa.evaluation.metrics.normalising import normalise


def exact_match(prediction: str, answer: str) -> float:
    """1.0 where prediction and answer are the same string, else 0.0: GQA's own `eval.py`."""
    return float(prediction == answer)


def lavis_exact_match(prediction: str, answer: str) -> float:
    """The same with the prediction normalised as in VQAv2, and the answer as it is: LAVIS, in BLIP-2's and RESSA's."""
    return float(normalise(prediction) == answer)


def llava_exact_match(prediction: str, answer: str) -> float:
    """The same with the prediction in lower case and without periods at its end (LLaVA)."""
    return float(prediction.rstrip(".").lower() == answer)


def normalised_match(prediction: str, answer: str) -> float:
    """The same with both normalised as in VQAv2 (LAVIS since InstructBLIP)."""
    return float(normalise(prediction) == normalise(answer))
