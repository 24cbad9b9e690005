"""From plain values, as a command line or a file has them, to a recipe."""

from typing import Any

from pydantic import ValidationError

from ressa.errors import UsageError, brief
from ressa.recipe.base import sentence
from ressa.recipe.demo import DemoRecipe
from ressa.recipe.evaluate import EvaluateRecipe
from ressa.recipe.prune import PruneRecipe
from ressa.recipe.repair import RepairRecipe
from ressa.recipe.report import ReportRecipe
from ressa.recipe.sweep import SweepRecipe

Recipe = PruneRecipe | RepairRecipe | EvaluateRecipe | SweepRecipe | DemoRecipe | ReportRecipe
RECIPES: dict[str, type[Recipe]] = {
    kind.model_fields["command"].default: kind
    for kind in (PruneRecipe, RepairRecipe, EvaluateRecipe, SweepRecipe, DemoRecipe, ReportRecipe)
}


def make_recipe(values: dict[str, Any]) -> Recipe:
    """A recipe from plain values, `command` saying which. Raises UsageError for the first thing wrong."""
    if not isinstance(values, dict):
        raise UsageError("A recipe is a list of 'key: value' lines, the first being 'command: prune', say.")
    command = values.get("command")
    if not isinstance(command, str) or command not in RECIPES:
        wrong = f"{brief(command)} is not a command" if command else "The recipe names no command"
        raise UsageError(f"{wrong}: write 'command:' and one of {', '.join(RECIPES)}.")
    kind = RECIPES[command]
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UsageError(sentence(command, kind, error)) from None
    except UnicodeEncodeError:  # half of a surrogate pair: bytes of the command line that were no text
        raise UsageError("An option holds bytes that are no text in UTF-8: write it anew.") from None
