"""Recipes as YAML. A file may hold several, one document each (separated by `---`): they run in that order."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from ressa.errors import UsageError, brief
from ressa.files import write_text
from ressa.recipe.expand import expand
from ressa.recipe.make import RECIPES, Recipe, make_recipe


class _Loader(yaml.SafeLoader):
    """YAML in which 2:4 is the text "2:4", not the base-60 number 124 that YAML 1.1 makes of it."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":int", ":float"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9]\d*)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?$"),
    list("-+.0123456789"),
)


MOST_CHARACTERS = 1_000_000
MOST_VALUES = 10_000
TOO_MUCH = (
    "The recipe holds more, or lies deeper, than a recipe can: write each option once, without aliases."
)


def to_yaml(recipe: Recipe) -> str:
    """A recipe as YAML, every option written out, the command first."""
    values = {"command": recipe.command, **recipe.model_dump(mode="json")}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def write_recipe(path: str | Path, recipe: Recipe) -> None:
    """Write a recipe file."""
    write_text(path, to_yaml(recipe))


def from_yaml(text: str, given: Mapping[str, Any] | None = None) -> list[Recipe]:
    """The recipes in a YAML text: one a document, or what `let`, `for` and `steps` make of it (`expand`).

    given: name → value, in place of the text's own: of a name of `let` or `for`, or else of a key of every recipe that
    has it. Raises UsageError when it is not YAML, a recipe is wrong, or nothing has such a name.
    """
    if len(text) > MOST_CHARACTERS:
        raise UsageError(f"The recipe is longer than {MOST_CHARACTERS:,} characters: give a recipe file.")
    try:
        documents = [document for document in yaml.load_all(text, _Loader) if document is not None]
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # a date or number that cannot be, too
        raise UsageError(f"The recipe is not YAML: {' '.join(str(error).split())[:300]}.") from None
    except RecursionError:
        raise UsageError(TOO_MUCH) from None
    if _size(documents) > MOST_VALUES:
        raise UsageError(TOO_MUCH)
    if not documents:
        raise UsageError("The recipe is empty: write 'command: prune', 'model: …' and 'output: …', say.")
    expanded, keys = expand(documents, given or {})
    for key, value in keys.items():
        having = [each for each in expanded if key in _fields(each)]
        if not having:
            raise UsageError(
                f"Nothing in the recipe file is called {brief(key)}: no name of its 'let' or 'for', no key."
            )
        for each in having:
            each[key] = value
    return [make_recipe(document) for document in expanded]


def read_value(text: str) -> Any:
    """A value as a recipe file has it: 2:4 is text, 0.5 a number, [a, b] a list. Raises UsageError for none."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError):
        raise UsageError(f"{brief(text)} is no value: write it as in a recipe file.") from None


def _fields(document: Any) -> Collection[str]:
    kind = RECIPES.get(str(document.get("command"))) if isinstance(document, dict) else None
    return kind.model_fields if kind is not None else ()


def _size(value: Any, most: int = MOST_VALUES) -> int:
    """How many values there are, each alias counted as what it stands for; counting stops beyond `most`."""
    waiting, count = [value], 0
    while waiting and count <= most:
        each = waiting.pop()
        count += 1
        if isinstance(each, Mapping):
            waiting += [*each.keys(), *each.values()]
        elif isinstance(each, list | tuple | set):
            waiting += each
    return count


def read_recipes(path: str | Path, given: Mapping[str, Any] | None = None) -> list[Recipe]:
    """The recipes in a file; relative paths in it are relative to the folder the command runs in. given: as `from_yaml`
    takes it."""
    path = Path(path)
    try:
        if not path.is_file():
            raise UsageError(f"There is no recipe file {path}: check the path.")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The recipe file {path} is not readable text: {error}.") from None
    return from_yaml(text, given)
