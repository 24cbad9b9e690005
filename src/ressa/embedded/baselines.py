"""How far one gets without looking: the best constant answer and the best answer to each question unseen."""

from collections import Counter, defaultdict

from ressa.embedded.catalog import things
from ressa.embedded.questions import Question, questions
from ressa.embedded.scenes import sample_scene


def _asked(split: str, scenes: int, seed: int) -> list[Question]:
    return [question for index in range(scenes) for question in questions(sample_scene(split, index, seed))]


def constant_score(split: str, scenes: int = 2000, seed: int = 0) -> float:
    """Percentage of a split's questions that the best single answer gets right."""
    answers = Counter(question.answer for question in _asked(split, scenes, seed))
    return 100 * answers.most_common(1)[0][1] / answers.total()


def blind_scores(split: str, scenes: int = 2000, seed: int = 0, known: int = 20_000) -> dict[str, float]:
    """Percentage right by question kind (and over `all`) when each question gets its most frequent answer.

    The answers are learnt from `known` training scenes: by the exact text where it came at least five times, else by
    the text with object names left out.
    """
    exact: dict[str, Counter] = defaultdict(Counter)
    rough: dict[str, Counter] = defaultdict(Counter)
    for question in _asked("train", known, seed):
        exact[question.text][question.answer] += 1
        rough[_nameless(question.text)][question.answer] += 1
    right: dict[str, list[bool]] = defaultdict(list)
    for question in _asked(split, scenes, seed):
        seen = exact.get(question.text)
        if seen is None or seen.total() < 5:
            seen = rough[_nameless(question.text)]
        guess = seen.most_common(1)[0][0] if seen else ""
        right[question.kind].append(guess == question.answer)
    scores = {kind: 100 * sum(hits) / len(hits) for kind, hits in right.items()}
    hits = [hit for kind in right.values() for hit in kind]
    return {"all": 100 * sum(hits) / len(hits), **scores}


_NAMES = sorted((form for thing in things() for form in (thing.name, thing.plural)), key=len, reverse=True)


def _nameless(text: str) -> str:
    for name in _NAMES:
        text = text.replace(name, "#")
    return text
