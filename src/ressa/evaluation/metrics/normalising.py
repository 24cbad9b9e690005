"""Answers as the evaluation tools of visual question answering compare them, quirks included.

Facts come from the tools themselves: github.com/GT-Vision-Lab/VQA (VQAv2, OK-VQA), salesforce/LAVIS, the EvalAI
processor in facebookresearch/mmf (TextVQA), and the API on vizwiz.org (VizWiz).
"""

import re
from collections.abc import Mapping, Sequence

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


def _typographic(table: Mapping[str, str]) -> dict[str, str]:
    """The table of VizWiz' tool: the same with typographic apostrophes, but for a few that kept theirs."""
    keys = {"couldn'tve", "hadn'tve"}
    words = {"aint", "arent", "cant", "couldve", "couldnt", "weve", "wheres", "whove"}
    return {
        wrong if wrong in keys else wrong.replace("'", "’"): right
        if wrong in words
        else right.replace("'", "’")
        for wrong, right in table.items()
    }


VIZWIZ_CONTRACTIONS = _typographic(CONTRACTIONS)

_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")  # "3.5" keeps its period
_MOST_PERIODS = 32  # the tools pass `re.UNICODE`, which is 32, where `re.sub` takes how many to replace


def one_line(answer: str) -> str:
    """Line breaks and tabs as spaces, none at the ends."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


def without_punctuation(text: str) -> str:
    """Each mark goes, or becomes a space where none is beside it anywhere and no number has a comma."""
    in_number = _COMMA_IN_NUMBER.search(text) is not None
    cleaned = text
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if beside_space or in_number else " ")
    return _PERIOD.sub("", cleaned, _MOST_PERIODS)


def without_articles(text: str, contractions: Mapping[str, str] = CONTRACTIONS) -> str:
    """Words in lower case, one space between them: no articles, digits for numbers, apostrophes put back."""
    words = [NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(contractions.get(word, word) for word in words if word not in ARTICLES)


def normalise(answer: str) -> str:
    """An answer as VQAv2's tool compares it: lower case, no punctuation or articles, digits for numbers."""
    return without_articles(without_punctuation(one_line(answer)))


def vizwiz_normalise(answer: str) -> str:
    """An answer as VizWiz' tool compares it: VQAv2's way, with the contractions of its own table."""
    return without_articles(without_punctuation(one_line(answer)), VIZWIZ_CONTRACTIONS)


def evalai(answer: str) -> str:
    """An answer as TextVQA's tool compares it: commas and question marks go first, and 's stands alone."""
    text = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return without_articles(without_punctuation(one_line(text)))
