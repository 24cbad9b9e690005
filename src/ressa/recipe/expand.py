"""What keeps a recipe file from repeating itself: names for values (`let`), and steps done for each of several values
(`for`, `steps`). docs/recipe.md shows both.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from ressa.errors import UsageError, brief

MOST_RECIPES = 1_000
NAME = re.compile(r"[a-z_][a-z0-9_]*")
_PLACE = re.compile(r"\{([a-z_][a-z0-9_]*)\}")

Values = Mapping[str, Any]


def expand(documents: Sequence[Any], given: Values) -> tuple[list[Any], dict[str, Any]]:
    """The plain recipes that the documents of a file stand for, in the order they run, and what of `given` is no name
    of the file.

    given: values for the file's names in place of its own; for a name of a `for`, the value or list to do it for.
    Raises UsageError for a name that nothing has, or what is no list of steps.
    """
    names, rest = _names(documents, given)
    left = {name: value for name, value in given.items() if name not in names}
    plain = not names and not any(isinstance(each, Mapping) and "for" in each for each in rest)
    found: list[Any] = []
    for document in rest:
        if plain and not (isinstance(document, Mapping) and "steps" in document):
            found.append(document)  # braces are braces
            continue
        loops = _loops(document, names)
        for name in loops.keys() & given.keys():
            value = given[name]
            loops[name] = list(value) if isinstance(value, list | tuple) else [value]
            left.pop(name, None)
        for bound in _each(loops):
            found += [_filled(step, {**names, **bound}) for step in _steps(document)]
            if len(found) > MOST_RECIPES:
                raise UsageError(
                    f"The file comes to more than {MOST_RECIPES:,} recipes: give 'for' fewer values."
                )
    return found, left


def _names(documents: Sequence[Any], given: Values) -> tuple[dict[str, Any], list[Any]]:
    """The names that a file gives values to, and its other documents."""
    names: dict[str, Any] = {}
    rest = []
    for document in documents:
        if not (isinstance(document, Mapping) and "let" in document):
            rest.append(document)
            continue
        if len(document) > 1 or not isinstance(document["let"], Mapping):
            raise UsageError("'let' stands in a document of its own, over lines of the form 'name: value'.")
        for name, value in document["let"].items():
            _check(name)
            names[name] = given[name] if name in given else _filled(value, names)
    return names, rest


def _loops(document: Any, names: Values) -> dict[str, list[Any]]:
    loops = document.get("for", {}) if isinstance(document, Mapping) else {}
    if not isinstance(loops, Mapping):
        raise UsageError("'for' has lines of the form 'name: [value, value]'.")
    found = {}
    for name, values in loops.items():
        _check(name)
        if not isinstance(values, list | tuple) or not values:
            raise UsageError(f"'for' has no list of values for {brief(name)}: write it as [value, value].")
        found[name] = [_filled(value, names) for value in values]
    return found


def _steps(document: Any) -> list[Any]:
    """The recipes of a document: its steps, or itself if it names none."""
    if not isinstance(document, Mapping):
        return [document]
    if "steps" not in document:
        return [{key: value for key, value in document.items() if key != "for"}]
    steps, beside = document["steps"], document.keys() - {"for", "steps"}
    if not isinstance(steps, list | tuple) or not steps:
        raise UsageError("'steps' is a list of recipes: write each as '- command: prune' and so on.")
    if beside:
        raise UsageError(
            f"{brief(sorted(map(str, beside))[0])} stands beside 'steps': put it into the steps that need it."
        )
    return list(steps)


def _each(loops: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    return (dict(zip(loops, values, strict=True)) for values in product(*loops.values()))


def _filled(value: Any, names: Values) -> Any:
    """A value with `{name}` replaced, in keys too; a text that is nothing else becomes the value itself, number or
    list."""
    if isinstance(value, Mapping):
        return {_filled(key, names): _filled(each, names) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_filled(each, names) for each in value]
    if not isinstance(value, str):
        return value
    if whole := _PLACE.fullmatch(value):
        return _known(whole[1], names)
    return _PLACE.sub(lambda place: _text(_known(place[1], names)), value)


def _known(name: str, names: Values) -> Any:
    if name not in names:
        known = ", ".join(names) or "none"
        raise UsageError(f"The recipe uses {{{name}}}, which 'let' and 'for' do not name: they name {known}.")
    return names[name]


def _text(value: Any) -> str:
    return (
        str(value).replace(":", "-")
        if isinstance(value, str) and re.fullmatch(r"\d+:\d+", value)
        else str(value)
    )


def _check(name: Any) -> None:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UsageError(f"{brief(name)} is no name for a value: take small letters, digits and _.")
