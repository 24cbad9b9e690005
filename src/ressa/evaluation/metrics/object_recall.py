"""How many of an image's objects its caption names."""

import re
from collections.abc import Iterable, Sequence

Forms = Sequence[str]  # one object's names, such as ("dog", "dogs")


def object_recall(captions: Sequence[str], objects: Sequence[Sequence[Forms]]) -> float:
    """The share of all objects that the caption of their image names, in [0, 1].

    A name counts where it is not part of a longer known name: "police car" does not name a car.
    """
    reader = _NameReader(form for image in objects for forms in image for form in forms)
    named = total = 0
    for caption, image in zip(captions, objects, strict=True):
        mentioned = reader.names_in(caption)
        total += len(image)
        named += sum(any(_words(form) in mentioned for form in forms) for forms in image)
    return named / total if total else 0.0


class _NameReader:
    """Finds known names in a text, the longest first at every word."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {_words(name) for name in names}
        self._longest = max(map(len, self._names), default=0)

    def names_in(self, text: str) -> set[tuple[str, ...]]:
        words = _words(text)
        found = set()
        start = 0
        while start < len(words):
            for length in range(min(self._longest, len(words) - start), 0, -1):
                candidate = words[start : start + length]
                if candidate in self._names:
                    found.add(candidate)
                    start += length - 1
                    break
            start += 1
        return found


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[\w'-]+", text.lower()))
