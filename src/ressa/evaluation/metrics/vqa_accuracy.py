"""VQA accuracy by the official VQAv2 protocol (Antol et al. 2015; OK-VQA uses the same).

Facts of the protocol come from the evaluation code at github.com/GT-Vision-Lab/VQA, quirks included: answers
are normalised only where the people disagree; where all of them agree, the prediction is compared as it is.
"""

import re
from collections.abc import Sequence

COUNTED = "zero one two three four five six seven eight nine ten"
NUMBERS = {word: str(value) for value, word in enumerate(COUNTED.split(" "))} | {"none": "0"}
ARTICLES = frozenset({"a", "an", "the"})
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'

CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
    might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
    shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
    someone's something'd something'd've something'll that's there'd there'd've there're there's
    they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
    why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're
    you've
"""


def _with_an_apostrophe_missing(words: Sequence[str]) -> dict[str, str]:
    """Misspelling → word, for every way to leave out one apostrophe."""
    return {
        word[:at] + word[at + 1 :]: word
        for word in words
        for at, character in enumerate(word)
        if character == "'"
    }


# The official table also turns one right form into a wrong one, and does so to people's answers alike.
CONTRACTIONS = _with_an_apostrophe_missing(CONTRACTED.split()) | {"somebody'd": "somebodyd"}

_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")  # "3.5" keeps its period


def normalise(answer: str) -> str:
    """An answer as the protocol compares it: lower case, no punctuation or articles, digits for numbers."""
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    in_number = _COMMA_IN_NUMBER.search(text) is not None
    cleaned = text
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if beside_space or in_number else " ")
    words = _PERIOD.sub("", cleaned).lower().split()
    words = [NUMBERS.get(word, word) for word in words]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Accuracy in [0, 1] of one prediction against the answers people gave (ten, in the official data).

    min(number of matching answers / 3, 1), averaged over the subsets that leave one person out.
    """
    given = [answer.replace("\n", " ").replace("\t", " ").strip() for answer in answers]
    said = prediction.replace("\n", " ").replace("\t", " ").strip()
    if len(set(given)) > 1:
        given = [normalise(answer) for answer in given]
        said = normalise(said)
    matches = given.count(said)
    without_a_match = min((matches - 1) / 3, 1.0)
    without_another = min(matches / 3, 1.0)
    return (matches * without_a_match + (len(given) - matches) * without_another) / len(given)
