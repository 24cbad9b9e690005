"""Recipes as YAML. A file may hold several, one document each (separated by `---`): they run in that order."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ressa.errors import UsageError
from ressa.files import write_text
from ressa.recipe.make import Recipe, make_recipe


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


def from_yaml(text: str) -> list[Recipe]:
    """The recipes in a YAML text, one a document. Raises UsageError when it is not YAML or one is wrong."""
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
    return [make_recipe(document) for document in documents]


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


def read_recipes(path: str | Path) -> list[Recipe]:
    """The recipes in a file; relative paths in it are relative to the folder the command runs in."""
    path = Path(path)
    try:
        if not path.is_file():
            raise UsageError(f"There is no recipe file {path}: check the path.")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The recipe file {path} is not readable text: {error}.") from None
    return from_yaml(text)
