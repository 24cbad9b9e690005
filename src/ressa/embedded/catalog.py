"""The objects that embedded scenes show: names, categories, and what one knows of them without a picture."""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

ANIMALS = frozenset({"mammal", "bird", "reptile", "sea animal", "insect"})
PLANTS = frozenset({"flower", "plant"})
FOODS = frozenset({"fruit", "vegetable", "meal", "sweet"})
VEHICLES = frozenset({"land vehicle", "boat", "aircraft"})
NEVER_ALIVE = VEHICLES | {
    "building",
    "clothing",
    "instrument",
    "electronics",
    "tool",
    "furniture",
    "ball",
    "drink",
}

GROUPS = {
    "animals": ANIMALS,
    "foods": FOODS,
    "vehicles": VEHICLES,
    "plants": PLANTS,
}
"""Plural words that a question may count by, and the categories each covers."""

USES = {
    "eat": FOODS,
    "drink": frozenset({"drink"}),
    "wear": frozenset({"clothing"}),
    "play music": frozenset({"instrument"}),
    "drive": frozenset({"land vehicle"}),
    "sail": frozenset({"boat"}),
    "throw": frozenset({"ball"}),
}
"""What one does with a thing, and the categories that are made for it."""

_FLIGHTLESS = {"penguin", "chicken", "rooster", "peacock"}
_FLYING_INSECTS = {"butterfly", "bee", "ladybug", "mosquito"}
_LEGS = {
    "snail": 0, "snake": 0, "dinosaur": 2, "fox": 4, "lion": 4, "panda": 4, "spider": 8, "scorpion": 8,
    "gorilla": None, "kangaroo": None, "bat": None, "sloth": None, "koala": None, "octopus": None, "crab": None,
    "lobster": None, "squid": None, "jellyfish": None,
}  # fmt: skip
_CATEGORY_LEGS = {"mammal": 4, "bird": 2, "reptile": 4, "insect": 6, "sea animal": 0}


@dataclass(frozen=True)
class Thing:
    """One object of the catalogue."""

    index: int
    name: str
    plural: str
    annotation: str  # OpenMoji's own name
    category: str

    @property
    def animal(self) -> bool:
        return self.category in ANIMALS

    @property
    def alive(self) -> bool | None:
        """Living thing or not; None where people would argue (food was alive once)."""
        if self.category in ANIMALS | PLANTS:
            return True
        return False if self.category in NEVER_ALIVE else None

    @property
    def edible(self) -> bool | None:
        if self.category in FOODS:
            return True
        return False if self.category in NEVER_ALIVE - {"drink"} else None

    @property
    def flies(self) -> bool | None:
        if self.category == "bird":
            return None if self.name in _FLIGHTLESS - {"penguin"} else self.name != "penguin"
        if self.name in _FLYING_INSECTS | {"bat", "airplane", "helicopter", "rocket", "flying saucer"}:
            return True
        if self.name in {"parachute", "satellite", "balloon", "kite", "ant"} or self.category == "ball":
            return None
        return False

    @property
    def wheels(self) -> bool | None:
        if self.category == "land vehicle" or self.name == "shopping cart":
            return True
        return None if self.category in {"aircraft", "toy"} else False

    @property
    def legs(self) -> int | None:
        return _LEGS.get(self.name, _CATEGORY_LEGS.get(self.category))

    @property
    def lives_in_water(self) -> bool | None:
        if self.category == "sea animal":
            return True
        if self.name in {
            "frog",
            "crocodile",
            "turtle",
            "duck",
            "swan",
            "penguin",
            "flamingo",
            "hippopotamus",
            "snail",
        }:
            return None
        return False if self.animal else None

    @property
    def use(self) -> str | None:
        return next((use for use, categories in USES.items() if self.category in categories), None)


@cache
def things() -> tuple[Thing, ...]:
    """All objects, in the order of the sprite sheet."""
    lines = files("ressa.embedded").joinpath("openmoji/objects.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    return tuple(Thing(index, *row) for index, row in enumerate(rows))


def article(name: str) -> str:
    """A noun with its indefinite article: "a dog", "an owl", "scissors"."""
    if name == "scissors":
        return name
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def held_out(first: int, second: int) -> bool:
    """Whether a pair of object indices is reserved for the `novel` split (about one pair in eight)."""
    low, high = sorted((first, second))
    return low != high and (low * 2654435761 + high * 40503) % 1009 % 8 == 0
