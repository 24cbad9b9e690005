"""Values in the JSON files of data sets: what a reader takes, and what is wrong with all else in a few words."""

import re
from collections.abc import Sequence
from typing import Any

from ressa.errors import UsageError

LONGEST = 10_000  # characters of one text: five pages, where the longest captions in use have half a page

_BROKEN = re.compile("[\0\ud800-\udfff]")


def text(value: Any, what: str, *, may_be_empty: bool = False, longest: int = LONGEST) -> str:
    """A text as it is. Raises UsageError for anything else, an empty, endless or broken one."""
    if not isinstance(value, str):
        raise UsageError(f"{what} is {shown(value)}, not text")
    if not may_be_empty and not value.strip():
        raise UsageError(f"{what} is empty")
    if len(value) > longest:
        raise UsageError(f"{what} has {len(value):,} characters, and at most {longest:,} are read")
    if _BROKEN.search(value):
        raise UsageError(f"{what} is broken Unicode (a lone surrogate or a NUL)")
    return value


def answer(value: Any, what: str, *, may_be_empty: bool = False) -> str:
    """A text, or a whole number as its digits: how many is often answered with a number."""
    if isinstance(value, int) and not isinstance(value, bool):
        return identity(value, what)
    return text(value, what, may_be_empty=may_be_empty)


def identity(value: Any, what: str) -> str:
    """An id as text, so that 7 and "7" are one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**100:
        return str(value)
    if not isinstance(value, str):
        raise UsageError(f"{what} is {shown(value)}, not a number or text")
    return text(value, what).strip()


def texts(value: Any, what: str) -> tuple[str, ...]:
    """A text or a list of texts; nothing for null."""
    if value is None:
        return ()
    if isinstance(value, list):
        return tuple(text(each, what) for each in value)
    return (text(value, what),) if value != "" else ()


def place_of(value: Any, what: str, among: Sequence[Any]) -> int:
    """A place in a list, counted from 0."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < len(among):
        raise UsageError(f"{what} is {shown(value)}, not a place in a list of {len(among)} from 0")
    return value


def items(value: Any, what: str) -> list[Any]:
    """A list."""
    if not isinstance(value, list):
        raise UsageError(f"{what} is {shown(value)}, not a list")
    return value


def fields(value: Any, what: str = "it") -> dict[str, Any]:
    """A JSON object."""
    if not isinstance(value, dict):
        raise UsageError(f"{what} is {shown(value)}, not an object with named fields")
    return value


def field(entry: dict[str, Any], name: str) -> Any:
    """A field that has to be there."""
    if name not in entry:
        raise UsageError(f"it has no {name!r}")
    return entry[name]


def shown(value: Any) -> str:
    """A value in a few words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {value}" if isinstance(value, float) or abs(value) < 10**20 else "a huge number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list) else "an object"
