"""Answers and captions that evaluation tools trip over, drawn with a seed: what the official numbers were made from.

`scripts/official_numbers.py` gives them to the official tools, the tests to ressa's metrics.
"""

import random

import numpy as np

ANSWERS = 1500
METEOR = 100  # captions: its program takes its time

_WORDS = [
    "yes",
    "no",
    "two",
    "dogs",
    "dog",
    "cat",
    "red",
    "blue",
    "the",
    "a",
    "an",
    "one",
    "ten",
    "none",
    "zero",
    "eleven",
    "2",
    "10",
    "100",
    "left",
    "right",
    "coca",
    "cola",
    "stop",
    "unanswerable",
    "unsuitable",
    "tennis",
    "racket",
    "isn't",
    "dont",
    "cant",
    "wont",
    "couldnt've",
    "couldn'tve",
    "couldn't've",
    "shes",
    "she's",
    "somebody'd",
    "somebodyd",
    "somebody'dve",
    "yall'd've",
    "y'alld've",
    "twas",
    "oclock",
    "o'clock",
    "weve",
    "im",
    "Im",
    "Ive",
    "id've",
    "notve",
    "hadn'tve",
    "hadnt’ve",
    "couldnt’ve",
    "didnt",
    "wheres",
    "whove",
    "thats",
    "lets",
    "let's",
    "man's",
    "dogs'",
    "café",
    "naïve",
    "ÜBER",
    "straße",
    "İstanbul",
    "ﬁre",
    "東京",
    "🐕",
    "A",
    "The",
    "AN",
    "Two",
    "NONE",
    "Yes",
    "No",
    "not",
]
_PIECES = [
    "1,000", "3.5", "$5.00", "1,000,000", "12:30", "1/2", "t-shirt", "left-handed", "hot_dog", "a.m.", "p.m", "...",
    "no.", "5,", ",5", "x;y", "[sic]", '"quoted"', "{b}", "(c)", "a=b", "a+b", "c\\d", "<p>", "me@home", "`tick`",
    "why?", "stop!", "-", "- ", " -", "?", "!", ",", ".", "'s", "dog's", "it's", "," * 3, "1,,2", "." * 40, ".5", "5.",
    "a . b",
]  # fmt: skip
_GAPS = [" ", " ", " ", " ", "  ", "\t", "\n", "", ", ", ". ", "-", "/", " \n "]


def _text(draw: random.Random) -> str:
    parts = []
    for _ in range(draw.choice([0, 1, 1, 1, 1, 2, 2, 3, 4])):
        parts += [draw.choice(_WORDS if draw.random() < 0.7 else _PIECES), draw.choice(_GAPS)]
    text = "".join(parts[:-1])
    return draw.choice(["", "", "", " ", "\n"]) + text + draw.choice(["", "", "", "", " ", ".", "?", "\t"])


def _changed(text: str, draw: random.Random) -> str:
    """The text as another person might have written it."""
    change = draw.randrange(10)
    if change < 4:
        return text
    if change == 4:
        return text.lower()
    if change == 5:
        return text.strip().rstrip(".")
    if change == 6:
        return "the " + text
    if change == 7:
        return text.replace(" ", "  ").replace("-", " ")
    if change == 8:
        return text.replace("'", "").replace(",", "")
    return _text(draw)


def answers(count: int = ANSWERS, people: int = 10) -> list[tuple[str, list[str]]]:
    """Predictions, each with what so many people said; all agree at times, and at times none."""
    draw = random.Random(14)
    found = []
    for _ in range(count):
        said = _text(draw)
        kind = draw.random()
        if kind < 0.15:  # all of one mind
            given = [_changed(said, draw)] * people
        elif kind < 0.25:
            given = [_text(draw) for _ in range(people)]
        else:
            others = [_text(draw), _text(draw)]
            given = [
                _changed(said, draw) if draw.random() < 0.5 else draw.choice(others) for _ in range(people)
            ]
        found.append((said, given))
    return found


def yes_no_answers(count: int = ANSWERS) -> list[tuple[str, bool, str]]:
    """What a model says to POPE's questions, whether yes is right, and the category."""
    draw = random.Random(15)
    words = [
        "Yes",
        "yes",
        "No",
        "no",
        "not",
        "NO",
        "Not",
        "nothing",
        "there",
        "is",
        "a",
        "dog",
        "none",
        "no-one",
        "know",
    ]
    gaps = [" ", " ", ", ", ". ", ".", ",", "\n", "! "]
    found = []
    for _ in range(count):
        parts = [part for _ in range(draw.randrange(6)) for part in (draw.choice(words), draw.choice(gaps))]
        category = draw.choice(["random", "popular", "adversarial"])
        found.append(("".join(parts), draw.random() < 0.5, category))
    return found


def choice_answers(count: int = ANSWERS) -> list[tuple[str, list[str], int]]:
    """What a model says to a multiple-choice question, its options, and which is right."""
    draw = random.Random(16)
    texts = [
        "{}", " {} ", "{}.", "{}. the cat", "{}\nthe cat", "The answer is {}.", "The answer is {}", "the answer is {}.",
        "({})", "It is {}.", "The answer is {} or The answer is {}.", "The answer is {}\n", "{} ", "{}\n",
        "The answer is {}pple", "", "FAILED", "Answer: {}", "{}: cat", "The answer is the cat.", "{}. ", "{}.x",
    ]  # fmt: skip
    found = []
    for _ in range(count):
        options = [f"option {place}" for place in range(draw.randrange(2, 6))]
        text = draw.choice(texts)
        letters = [draw.choice("ABCDEFGa") for _ in range(text.count("{}"))]
        found.append((text.format(*letters), options, draw.randrange(len(options))))
    return found


def chosen_options(count: int = ANSWERS) -> list[tuple[int, list[str], int]]:
    """Which of four options was chosen, what these say (the same, at times), and which is right."""
    draw = random.Random(21)
    words = ["dog", "Dog", "cat", "the dog", "dog ", "2", "two"]
    return [
        (draw.randrange(4), [draw.choice(words) for _ in range(4)], draw.randrange(4)) for _ in range(count)
    ]


def captions(count: int = 1000, references: int = 5) -> tuple[list[str], list[list[str]]]:
    """Predictions and references as tokens joined by spaces: repeats, empty ones, very long and very short ones."""
    draw = random.Random(17)
    words = [
        "a",
        "man",
        "dog",
        "riding",
        "red",
        "bike",
        "on",
        "the",
        "grass",
        "with",
        "two",
        "cats",
        "'s",
        "n't",
        "t-shirt",
        "3.5",
        "street",
        "sitting",
        ",",
        "of",
        "in",
    ]
    said, truth = [], []
    for _ in range(count):
        base = [draw.choice(words) for _ in range(draw.randrange(1, 14))]
        group = []
        for _ in range(draw.randrange(1, references + 1)):
            words_of_one = [draw.choice(words) if draw.random() < 0.3 else word for word in base]
            group.append(" ".join(words_of_one))
        kind = draw.random()
        if kind < 0.05:
            mine = ""
        elif kind < 0.15:
            mine = group[0]
        elif kind < 0.25:
            mine = " ".join(base * 3)
        else:
            mine = " ".join(draw.choice(words) if draw.random() < 0.4 else word for word in base)
        said.append(mine)
        truth.append(group)
    return said, truth


def raw_captions(count: int = 1000) -> tuple[list[str], list[list[str]]]:
    """The same as people write them: capitals, punctuation, quotes, line breaks."""
    draw = random.Random(18)
    said, truth = captions(count)

    def written(text: str) -> str:
        text = text.replace(" n't", "n't").replace(" 's", "'s")
        text = draw.choice([text, text.capitalize(), text.upper(), f'"{text}"', text.replace(" ", "  ", 1)])
        return text + draw.choice(["", ".", "!", " ...", " ; $5", "\n", " (sic)", " – so", " isn't it?"])

    return [written(each) for each in said], [[written(each) for each in group] for group in truth]


def pair_scores(images: int = 200, captions_each: int = 5) -> np.ndarray:
    """float64 (images, captions): scores of all pairs without ties, those of a pair a little higher."""
    draw = np.random.default_rng(19)
    scores = draw.normal(size=(images, images * captions_each))
    for image in range(images):
        scores[image, image * captions_each : (image + 1) * captions_each] += 1.5
    return scores


def answerable(count: int = ANSWERS) -> tuple[list[int], list[float]]:
    """VizWiz' labels (1: can be answered) and a model's confidence in that, with ties."""
    draw = random.Random(20)
    labels = [int(draw.random() < 0.7) for _ in range(count)]
    return labels, [round(min(1, max(0, label * 0.4 + draw.random() * 0.6)), 2) for label in labels]
