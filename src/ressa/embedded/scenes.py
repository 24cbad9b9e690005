"""Scenes: one to five OpenMoji objects on a coloured, patterned canvas, from a seed."""

import random
from dataclasses import dataclass

import numpy as np

from ressa.embedded.catalog import Thing, held_out, things
from ressa.embedded.sprites import sprite

CANVAS = 112  # px, both sides
SIZES = range(26, 47)  # px, longer side of an object
OVERLAP = 0.08  # two boxes may share at most this part of the smaller one
SPLITS = ("train", "calibration", "val", "test", "novel")

COLOURS = {
    "red": (232, 104, 96),
    "orange": (246, 178, 92),
    "yellow": (246, 236, 122),
    "green": (140, 208, 130),
    "blue": (126, 172, 238),
    "purple": (176, 136, 220),
    "pink": (250, 190, 216),
    "gray": (186, 188, 192),
}
TEXTURES = ("plain", "striped", "dotted", "checked")
REGIONS = ("top left", "top right", "bottom left", "bottom right")


@dataclass(frozen=True)
class Placed:
    """One object in a scene. `left`, `top`: box corner in px; `size`: longer side in px."""

    thing: Thing
    left: int
    top: int
    width: int
    height: int
    size: int

    @property
    def x(self) -> float:
        """Centre, px from the left edge."""
        return self.left + self.width / 2

    @property
    def y(self) -> float:
        """Centre, px from the top edge."""
        return self.top + self.height / 2

    @property
    def region(self) -> str | None:
        """The quadrant that the object's centre lies in; None when it is within 6 px of a border between two."""
        if min(abs(self.x - CANVAS / 2), abs(self.y - CANVAS / 2)) < 6:
            return None
        return f"{'top' if self.y < CANVAS / 2 else 'bottom'} {'left' if self.x < CANVAS / 2 else 'right'}"


@dataclass(frozen=True)
class Scene:
    """What a picture shows. Objects are listed in painting order (later ones lie on top)."""

    objects: tuple[Placed, ...]
    colour: str
    texture: str
    seed: str  # drives everything that is paint only: shades, pattern phase, distractors

    def __str__(self) -> str:
        placed = ";".join(f"{o.thing.name}@{o.left},{o.top},{o.size}" for o in self.objects)
        return f"{self.colour}/{self.texture}/{placed}"


def sample_scene(split: str, index: int, seed: int = 0) -> Scene:
    """Scene `index` of a split. Pairs that `held_out` reserves appear in `novel` only, and in each of its scenes."""
    name = f"ressa-scene/{seed}/{split}/{index}"
    rng = random.Random(name)
    count = rng.randint(2 if split == "novel" else 1, 5)
    while True:
        chosen = _choose(rng, count, novel=split == "novel")
        objects = _place(rng, chosen)
        if objects is not None:
            return Scene(objects, rng.choice(tuple(COLOURS)), rng.choice(TEXTURES), name)


def _choose(rng: random.Random, count: int, novel: bool) -> list[Thing]:
    """`count` things; in three scenes of ten one of them comes two or three times."""
    catalogue = things()
    while True:
        copies = rng.randint(2, 3) if rng.random() < 0.3 else 1
        kinds = count - min(copies, count) + 1
        chosen = rng.sample(catalogue, kinds)
        reserved = any(held_out(a.index, b.index) for i, a in enumerate(chosen) for b in chosen[:i])
        if reserved == novel:
            return chosen + [chosen[0]] * (count - kinds)


def _place(rng: random.Random, chosen: list[Thing]) -> tuple[Placed, ...] | None:
    """Positions for all things, or None when they do not fit."""
    largest = SIZES[-1] if len(chosen) <= 3 else SIZES[-1] - 6
    placed: list[Placed] = []
    for thing in chosen:
        size = rng.randint(SIZES[0], largest)
        height, width = sprite(thing.index, size)[1].shape[:2]
        for _ in range(24):
            box = Placed(
                thing, rng.randint(0, CANVAS - width), rng.randint(0, CANVAS - height), width, height, size
            )
            if all(_shared(box, other) <= OVERLAP for other in placed):
                placed.append(box)
                break
        else:
            return None
    rng.shuffle(placed)
    return tuple(placed)


def _shared(a: Placed, b: Placed) -> float:
    """Area that two boxes share, as a part of the smaller box."""
    across = min(a.left + a.width, b.left + b.width) - max(a.left, b.left)
    down = min(a.top + a.height, b.top + b.height) - max(a.top, b.top)
    return max(across, 0) * max(down, 0) / min(a.width * a.height, b.width * b.height)


def render(scene: Scene) -> np.ndarray:
    """Paint a scene. Returns uint8 (CANVAS, CANVAS, 3), RGB."""
    rng = np.random.default_rng(random.Random(scene.seed + "/paint").getrandbits(64))
    canvas = _background(scene, rng)
    _distract(canvas, rng)
    for placed in scene.objects:
        colour, through = sprite(placed.thing.index, placed.size)
        window = canvas[placed.top : placed.top + placed.height, placed.left : placed.left + placed.width]
        window *= through
        window += colour
    return np.clip(canvas + 0.5, 0, 255).astype(np.uint8)


def patch_labels(scene: Scene, patch: int) -> np.ndarray:
    """What each patch shows: int16 (CANVAS/patch, CANVAS/patch), the topmost thing's index or −1 for background.

    A thing counts where it covers at least 15 % of the patch and more than any other thing.
    """
    owner = np.zeros((CANVAS, CANVAS), dtype=np.int8)
    for position, placed in enumerate(scene.objects, start=1):
        visible = sprite(placed.thing.index, placed.size)[1][..., 0] < 0.5
        window = owner[placed.top : placed.top + placed.height, placed.left : placed.left + placed.width]
        window[visible] = position
    side = CANVAS // patch
    tiles = owner.reshape(side, patch, side, patch)
    cover = np.stack([(tiles == position).sum(axis=(1, 3)) for position in range(1, len(scene.objects) + 1)])
    best = cover.argmax(axis=0)
    indices = np.array([placed.thing.index for placed in scene.objects], dtype=np.int16)
    return np.where(cover.max(axis=0) >= 0.15 * patch * patch, indices[best], np.int16(-1))


def _background(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    base = np.array(COLOURS[scene.colour], dtype=np.float32) + rng.uniform(-8, 8, 3).astype(np.float32)
    canvas = np.empty((CANVAS, CANVAS, 3), dtype=np.float32)
    canvas[:] = base
    if scene.texture != "plain":
        rows, columns = np.ogrid[:CANVAS, :CANVAS]
        phase = int(rng.integers(0, 32))
        if scene.texture == "striped":
            step = int(rng.integers(10, 19))
            along = (rows + 0 * columns, columns + 0 * rows, rows + columns, rows - columns)[
                int(rng.integers(0, 4))
            ]
            darker = (along + phase) % step < step // 2
        elif scene.texture == "checked":
            step = int(rng.integers(9, 15))
            darker = ((rows + phase) // step + (columns + phase) // step) % 2 == 0
        else:
            step, radius = int(rng.integers(11, 16)), float(rng.uniform(2.4, 3.6))
            down, across = (rows + phase) % step - step / 2, (columns + phase) % step - step / 2
            darker = down * down + across * across < radius * radius
        canvas[darker] *= float(rng.uniform(0.78, 0.88))
    return canvas


def _distract(canvas: np.ndarray, rng: np.random.Generator) -> None:
    """Up to four small shapes that no question asks about."""
    for _ in range(int(rng.integers(0, 5))):
        width, height = (int(v) for v in rng.integers(3, 8, 2))
        left, top = int(rng.integers(0, CANVAS - width)), int(rng.integers(0, CANVAS - height))
        window = canvas[top : top + height, left : left + width]
        colour = rng.uniform(40, 250, 3).astype(np.float32)
        rows, columns = np.ogrid[:height, :width]
        shape = int(rng.integers(0, 3))
        if shape == 0:  # box
            window[:] = colour
        elif shape == 1:  # ellipse
            inside = ((rows - (height - 1) / 2) / height) ** 2 + (
                (columns - (width - 1) / 2) / width
            ) ** 2 < 0.25
            window[inside] = colour
        else:  # triangle
            window[columns * height <= rows * width] = colour
