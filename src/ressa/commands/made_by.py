"""`ressa inspect --recipe`: the recipes of a finished run, as the YAML that `ressa run` takes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ressa.checkpoint import MANIFEST, read_manifest
from ressa.commands.outcome import Outcome
from ressa.errors import UsageError
from ressa.files import read_json
from ressa.recipe import RECIPES, make_recipe, to_yaml


def show_recipe(place: str) -> Outcome:
    """The recipes that lead to what is at `place`, in order: a folder that was pruned, repaired, packed or swept, a
    demo's, a report, or the JSON file of an evaluation. Each is checked to be one that this version of ressa runs.

    Raises UsageError where nothing of that kind is.
    """
    recipes = [make_recipe(values) for values in _told(Path(place).expanduser())]
    if not recipes:
        raise UsageError(
            f"{place} does not say by which recipe it was made: give a result folder, a demo's or a sweep's, or the "
            "JSON file of an evaluation or a report."
        )
    text = "---\n".join(map(to_yaml, recipes))
    return Outcome({"model": place, "recipes": [*_plain(recipes)]}, lines=[text.rstrip("\n")])


def _plain(recipes: list[Any]) -> Iterator[dict[str, Any]]:
    for recipe in recipes:
        yield {"command": recipe.command, **recipe.model_dump(mode="json")}


def _told(place: Path) -> list[dict[str, Any]]:
    if (place / MANIFEST).is_file():
        return read_manifest(place).told(str(place))
    if place.is_file():
        numbers = place.with_suffix(".json")  # of a report's page
        return [
            *_noted(place, ("evaluate",), place),
            *_noted(numbers, ("report",), place.with_suffix(".html")),
        ]
    # A sweep may have been run for several figures and methods.
    files = [place / "recipe.json", *sorted(place.glob("*-*.json"))] if place.is_dir() else []
    return [values for file in files for values in _noted(file, ("demo", "sweep"), place)]


def _noted(file: Path, commands: tuple[str, ...], output: Path) -> list[dict[str, Any]]:
    """The recipe that a file of results, or the note of a demo, holds, without what else decided the result."""
    found = read_json(file) if file.suffix == ".json" else None
    found = found if isinstance(found, dict) else {}
    recipe = found.get("recipe", found)
    if not isinstance(recipe, dict) or recipe.get("command") not in commands:
        return []
    known = RECIPES[recipe["command"]].model_fields
    told = {**recipe, **found.get("besides", {}), "output": str(output)}
    return [{key: value for key, value in told.items() if key in known}]
