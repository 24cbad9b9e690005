"""Multiple choice: which option an answer names, or which one a model finds likeliest."""

import re
import string
from collections.abc import Sequence

LETTERS = string.ascii_uppercase

_LEADING = re.compile(r"[A-E]\. ")
_STATED = re.compile(r"The answer is ([A-Z]).")


def chosen_letter(answer: str, options: int) -> int | None:
    """The option that an answer in words names, by LLaVA's protocol for ScienceQA; None where it names none.

    A letter from A to E alone, one with a period and a space at the start, or one after "The answer is" and before
    something else, if that is said once.
    """
    if answer in set(LETTERS[:5]) or _LEADING.match(answer):
        letter = answer[0]
    elif len(stated := _STATED.findall(answer)) == 1:
        letter = stated[0]
    else:
        return None
    place = LETTERS.index(letter)
    return place if place < min(options, 5) else None


def likeliest(scores: Sequence[float]) -> int:
    """The index of the highest score; the first of equals."""
    return max(range(len(scores)), key=lambda place: scores[place])
