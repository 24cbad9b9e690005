"""Which questions to make maps of."""

import random
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from ressa.data import Question
from ressa.data.sample import image_key
from ressa.seeing.places import Places, named_places


def choose(samples: Iterable[Any], places: Places, count: int, seed: int = 0) -> list[Question]:
    """So many of the questions that have one picture and an answer: first those that name something whose place is
    known; among these the kinds in turn, and each picture as seldom as can be. The seed decides the rest.
    """
    able = [each for each in samples if isinstance(each, Question) and len(each.images) == 1 and each.answers]
    random.Random(seed).shuffle(able)
    named = {id(each) for each in able if named_places(each, places)}
    kinds: Counter[str] = Counter()
    pictures: Counter[Hashable] = Counter()
    chosen: list[Question] = []
    while able and len(chosen) < count:
        best = min(
            able, key=lambda each: (id(each) not in named, kinds[_kind(each)], pictures[image_key(each)])
        )
        able.remove(best)
        kinds[_kind(best)] += 1
        pictures[image_key(best)] += 1
        chosen.append(best)
    return chosen


def _kind(question: Question) -> str:
    return question.kinds[0] if question.kinds else ""


def described(questions: Sequence[Question], places: Places) -> list[dict[str, Any]]:
    """Each question as JSON-able data, with the boxes of what it names (shares of width and height)."""
    return [
        {
            "id": each.id,
            "question": each.question or each.prompt,
            "answers": list(dict.fromkeys(each.answers)),
            "kind": _kind(each),
            "named": [
                {"name": place.names[0], "box": [place.left, place.top, place.right, place.bottom]}
                for place in named_places(each, places)
            ],
        }
        for each in questions
    ]
