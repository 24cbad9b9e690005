"""Questions about a scene and their answers, asked only where the scene leaves no doubt.

Three families, each in its public format: `vqa` (what one sees), `gqa` (how objects lie to each other) and `okvqa`
(what one must know besides). Answers to yes/no and either/or questions are drawn by coin before the question is, so
that no constant and no blind guess does well.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from ressa.embedded.catalog import GROUPS, Thing, article, things
from ressa.embedded.scenes import Placed, Scene

CLEAR = 10.0  # px that must separate two centres before one is "left of" the other
CLEARLY_LARGER = 1.25  # ratio of longer sides


@dataclass(frozen=True)
class Question:
    text: str
    answer: str
    kind: str
    family: str  # vqa | gqa | okvqa


class Asker:
    """One scene's questions. Each `_kind` method returns (text, answer), or None when the scene has no clear case."""

    def __init__(self, scene: Scene, rng: random.Random) -> None:
        self.scene, self.rng = scene, rng
        self.objects = scene.objects
        self.counts = Counter(placed.thing for placed in scene.objects)
        self.unique = [placed for placed in scene.objects if self.counts[placed.thing] == 1]

    def ask(self, kind: str) -> Question | None:
        family, method = KINDS[kind]
        found = method(self)
        return Question(f"{found[0]}?", found[1], kind, family) if found else None

    # What one sees

    def what(self):
        if self.rng.random() < 0.3:
            animals = [placed.thing for placed in self.objects if placed.thing.animal]
            if len(set(animals)) == 1:
                return "Which animal is in the picture", animals[0].name
        placed, reference = self._referred(self.objects)
        return (f"What is {reference}", placed.thing.name) if placed else None

    def where(self):
        placed = self._pick([o for o in self.unique if o.region])
        return (f"Where is the {placed.thing.name}", placed.region) if placed else None

    def count(self):
        if self.rng.random() < 0.5:
            return self.rng.choice(("How many objects are there", "How many things are in the picture")), str(
                len(self.objects)
            )
        groups = [
            g for g, categories in GROUPS.items() if any(o.thing.category in categories for o in self.objects)
        ]
        if groups and self.rng.random() < 0.4:
            group = self.rng.choice(groups)
            return f"How many {group} are there", str(
                sum(o.thing.category in GROUPS[group] for o in self.objects)
            )
        repeated = [thing for thing, count in self.counts.items() if count > 1]
        if repeated and self.rng.random() < 0.8:
            thing = repeated[0]
        elif self.rng.random() < 0.4:
            thing = self._absent()
        else:
            thing = self.rng.choice(self.objects).thing
        return f"How many {thing.plural} are there", str(self.counts.get(thing, 0))

    def exists(self):
        present = self.rng.random() < 0.5
        thing = self.rng.choice(self.objects).thing if present else self._absent()
        return f"Is there {article(thing.name)} in the picture", _yes(present)

    def background(self):
        if self.rng.random() < 0.5:
            return "What color is the background", self.scene.colour
        return "What pattern does the background have", self.scene.texture

    def comparison(self):
        pairs = [
            (a, b)
            for a in self.unique
            for b in self.unique
            if a.thing is not b.thing and a.size >= CLEARLY_LARGER * b.size
        ]
        if not pairs:
            return None
        large, small = self.rng.choice(pairs)
        first, second = self._shuffled(large, small)
        if self.rng.random() < 0.5:
            return f"Which is larger, the {first.thing.name} or the {second.thing.name}", large.thing.name
        return f"Is the {first.thing.name} larger than the {second.thing.name}", _yes(first is large)

    def category(self):
        placed, reference = self._referred(self.objects)
        return (f"What kind of thing is {reference}", placed.thing.category) if placed else None

    # How objects lie to each other

    def relation(self):
        form = self.rng.random()
        if form < 0.5:
            found = self._neighbour()
            if not found:
                return None
            target, relation, reference = found
            if form < 0.35:
                return f"What is {relation} the {reference.thing.name}", target.thing.name
            return f"What kind of thing is {relation} the {reference.thing.name}", target.thing.category
        pairs = [(a, b) for a in self.unique for b in self.unique if a is not b]
        self.rng.shuffle(pairs)
        for a, b in pairs:
            axis = self.rng.choice(("x", "y"))
            apart = getattr(a, axis) - getattr(b, axis)
            if abs(apart) < CLEAR:
                continue
            before, after = ("left", "right") if axis == "x" else ("above", "below")
            truth = before if apart < 0 else after
            if form < 0.75:
                asked = self.rng.choice((before, after))
                return f"Is the {a.thing.name} {_RELATIONS[asked]} the {b.thing.name}", _yes(asked == truth)
            either = f"{_RELATIONS[before]} or {_RELATIONS[after]}"
            return f"Is the {a.thing.name} {either} the {b.thing.name}", truth
        return None

    # What one must know besides

    def knowledge(self):
        form = self.rng.random()
        if form < 0.3:
            placed, reference = self._referred([o for o in self.objects if o.thing.use])
            return (f"What does one do with {reference}", placed.thing.use) if placed else None
        if form < 0.5:
            placed, reference = self._referred([o for o in self.objects if o.thing.legs is not None])
            return (f"How many legs does {reference} have", str(placed.thing.legs)) if placed else None
        for _ in range(6):
            wording, fact, share_of_no = self.rng.choice(_FACTS)
            wanted = self.rng.random() >= share_of_no
            placed, reference = self._referred([o for o in self.objects if fact(o.thing) is wanted])
            if placed:
                return wording.format(reference), _yes(wanted)
        return None

    # How a question points at an object without naming it

    def _referred(self, candidates) -> tuple[Placed, str] | tuple[None, str]:
        """One of `candidates` and words that single it out in the whole scene; (None, "") if there is none."""
        options = [(o, phrase) for o in candidates for phrase in self._descriptions(o)]
        return self.rng.choice(options) if options else (None, "")

    def _descriptions(self, placed: Placed) -> list[str]:
        others = [o for o in self.objects if o is not placed]
        found = []
        if placed.region and all(o.region is not None and o.region != placed.region for o in others):
            found += [f"the object in the {placed.region}"] * 2
        if others and all(placed.size >= CLEARLY_LARGER * o.size for o in others):
            found.append("the largest object")
        if others and all(placed.size * CLEARLY_LARGER <= o.size for o in others):
            found.append("the smallest object")
        if others:
            if all(placed.x + CLEAR <= o.x for o in others):
                found.append("the object on the far left")
            if all(placed.x >= o.x + CLEAR for o in others):
                found.append("the object on the far right")
        else:
            found.append("the object in the picture")
        return found

    def _neighbour(self) -> tuple[Placed, str, Placed] | None:
        """(target, relation, reference) where the target is the only object on that side of the reference."""
        options = []
        for reference in self.unique:
            others = [o for o in self.objects if o is not reference]
            for axis, before, after in (("x", "left", "right"), ("y", "above", "below")):
                apart = [(getattr(o, axis) - getattr(reference, axis), o) for o in others]
                if any(abs(d) < CLEAR for d, _ in apart):
                    continue
                for relation, side in (
                    (before, [o for d, o in apart if d < 0]),
                    (after, [o for d, o in apart if d > 0]),
                ):
                    if len(side) == 1:
                        options.append((side[0], _RELATIONS[relation], reference))
        return self.rng.choice(options) if options else None

    def _absent(self) -> Thing:
        """A thing that is not there; half the time one of the same category as a thing that is."""
        near = {o.thing.category for o in self.objects} if self.rng.random() < 0.5 else None
        while True:
            thing = self.rng.choice(things())
            if thing not in self.counts and (near is None or thing.category in near):
                return thing

    def _pick(self, options):
        return self.rng.choice(options) if options else None

    def _shuffled(self, a, b):
        return (a, b) if self.rng.random() < 0.5 else (b, a)


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"


_RELATIONS = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}

# (wording, fact, how often to try for a "no": less than half where most things answer "no"; both come out even)
_FACTS: tuple[tuple[str, Callable[[Thing], bool | None], float], ...] = (
    ("Can one eat {}", lambda thing: thing.edible, 0.36),
    ("Is {} alive", lambda thing: thing.alive, 0.46),
    ("Can {} fly", lambda thing: thing.flies, 0.1),
    ("Does {} have wheels", lambda thing: thing.wheels, 0.07),
    ("Does {} live in the sea", lambda thing: thing.lives_in_water, 0.19),
)

KINDS: dict[str, tuple[str, Callable]] = {
    "what": ("vqa", Asker.what),
    "where": ("vqa", Asker.where),
    "count": ("vqa", Asker.count),
    "exists": ("vqa", Asker.exists),
    "background": ("vqa", Asker.background),
    "comparison": ("vqa", Asker.comparison),
    "category": ("vqa", Asker.category),
    "relation": ("gqa", Asker.relation),
    "knowledge": ("okvqa", Asker.knowledge),
}
"""Question kind → (family, how to ask one)."""

_DRAWN = ("what", "what", "where", "count", "count", "exists", "background", "comparison", "category",
          "relation", "relation", "relation", "knowledge", "knowledge", "knowledge")  # fmt: skip


def questions(scene: Scene) -> list[Question]:
    """The scene's questions, about eleven, no text twice (drawn from the scene's seed)."""
    asker = Asker(scene, random.Random(scene.seed + "/questions"))
    found: dict[str, Question] = {}
    for kind in _DRAWN:
        question = asker.ask(kind)
        if question and question.text not in found:
            found[question.text] = question
    return list(found.values())
