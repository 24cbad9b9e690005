"""Five captions a scene, in varied words; each names every object, from left to right."""

import random

from ressa.embedded.catalog import article
from ressa.embedded.scenes import Scene

NUMBERS = ("zero", "one", "two", "three", "four", "five")

_OPENINGS = (
    ("{things} on {background}", "{things} against {background}"),
    ("a picture of {things}", "an image of {things}"),
    ("there {verb} {things} on {background}", "there {verb} {things}"),
    ("{background} with {things}", "{background} behind {things}"),
    ("a picture showing {things} on {background}", "{things} in a picture with {background}"),
)


def captions(scene: Scene) -> list[str]:
    """The five captions of a scene (the wording is drawn from the scene's seed)."""
    rng = random.Random(scene.seed + "/captions")
    listed = enumerate_things(scene)
    words = {
        "things": listed,
        "background": background(scene),
        "verb": "are" if listed.split()[0] in NUMBERS or listed.startswith("scissors") else "is",
    }
    return [rng.choice(wordings).format(**words) for wordings in _OPENINGS]


def background(scene: Scene) -> str:
    """The backdrop with its article: "a plain red background", "an orange striped background"."""
    if scene.texture == "plain":
        return f"a plain {scene.colour} background"
    return f"{article(scene.colour)} {scene.texture} background"


def enumerate_things(scene: Scene) -> str:
    """All objects from left to right, equal ones together: "two dogs, an owl and a car"."""
    counts: dict = {}
    for placed in sorted(scene.objects, key=lambda o: (o.x, o.y)):
        counts[placed.thing] = counts.get(placed.thing, 0) + 1
    phrases = [
        article(thing.name) if count == 1 else f"{NUMBERS[count]} {thing.plural}"
        for thing, count in counts.items()
    ]
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"
