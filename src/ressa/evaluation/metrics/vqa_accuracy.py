"""VQA accuracy (Antol et al. 2015) as each data set's own tool computes it: what is normalised differs.

Every function takes one prediction and the answers people gave (ten, in the official data), and returns the
accuracy in [0, 1]: min(number of matching answers / 3, 1), averaged over the subsets that leave one person out.
"""

from collections.abc import Sequence

from ressa.evaluation.metrics.normalising import (
    evalai,
    normalise,
    one_line,
    vizwiz_normalise,
    without_punctuation,
)


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """VQAv2 and OK-VQA (github.com/GT-Vision-Lab/VQA).

    Normalised only where the people disagree; where all of them agree, the prediction is compared as it is.
    """
    given = [one_line(answer) for answer in answers]
    said = one_line(prediction)
    if len(set(given)) > 1:
        given = [normalise(answer) for answer in given]
        said = normalise(said)
    return agreement(given.count(said), len(given))


def lavis_vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """VQAv2 and OK-VQA as LAVIS scores them (BLIP-2, InstructBLIP, RESSA; salesforce/LAVIS, `vqa_eval.py`).

    The prediction is always normalised; people's answers lose their punctuation where they disagree, and keep case,
    articles and number words.
    """
    given = list(answers)
    if len(set(given)) > 1:
        given = [without_punctuation(answer) for answer in given]
    return agreement(given.count(normalise(prediction)), len(given))


def llava_vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """VQAv2 as LLaVA submits it (`convert_vqav2_for_submission.py`): EvalAI's processor on the prediction, then VQAv2's
    own tool."""
    return vqa_accuracy(evalai(prediction), answers)


def llava_vizwiz_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """VizWiz as LLaVA submits it: EvalAI's processor on the prediction, then VizWiz' own tool."""
    return vizwiz_accuracy(evalai(prediction), answers)


def normalised_vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """The same with prediction and answers normalised throughout."""
    given = [normalise(answer) for answer in answers]
    return agreement(given.count(normalise(prediction)), len(given))


def textvqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """TextVQA (the evaluator in facebookresearch/mmf): EvalAI's processor on prediction and answers."""
    return agreement([evalai(answer) for answer in answers].count(evalai(prediction)), len(answers))


def vizwiz_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """VizWiz (vizwiz.org's API): the prediction is normalised, people's answers are compared as they are."""
    return agreement(list(answers).count(vizwiz_normalise(prediction)), len(answers))


def direct_answer_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """A-OKVQA's direct answers (allenai/aokvqa): min(matches / 3, 1), compared as they are, nobody left out."""
    return min(1.0, list(answers).count(prediction) / 3)


def normalised_direct_answer_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """The same with prediction and answers normalised as in VQAv2."""
    return direct_answer_accuracy(normalise(prediction), [normalise(answer) for answer in answers])


def agreement(matches: int, people: int) -> float:
    """min(matches / 3, 1), averaged over leaving out each of the people."""
    without_a_match = min((matches - 1) / 3, 1.0)
    without_another = min(matches / 3, 1.0)
    return (matches * without_a_match + (people - matches) * without_another) / people
