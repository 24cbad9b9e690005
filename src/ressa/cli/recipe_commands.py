"""The commands that carry out a recipe."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ressa.cli.app import command
from ressa.cli.from_recipe import Values, estimate_recipes, recipe_command, run_recipes, with_options
from ressa.cli.options import DryRun, Force, JsonTarget
from ressa.errors import UsageError, brief
from ressa.recipe import (
    DemoRecipe,
    EvaluateRecipe,
    PruneRecipe,
    RepairRecipe,
    ReportRecipe,
    SweepRecipe,
    read_recipes,
    read_value,
)


@recipe_command(DemoRecipe)
def demo(values: Values) -> Values:
    """Prune, repair and evaluate an embedded model.

    It is pruned to 2:4 and repaired; the table shows what broke and what came back. A run
    that was interrupted goes on from its last finished stage.

    \b
    Example:
      ressa demo
      ressa demo --output runs/4-8 --pattern 4:8
    """
    return values


@recipe_command(
    PruneRecipe,
    sparsity=Annotated[str | None, typer.Option(help="The share of zeros: 0.5 or 50%.")],
)
def prune(values: Values) -> Values:
    """Make a model sparse.

    The result is a plain Hugging Face folder with exact zeros, and a file that says how it was made.

    \b
    Example:
      ressa prune embedded -o runs/pruned --pattern 2:4
      ressa prune ./llava -o runs/llava --sparsity 0.5 --vision dense --calibration ./coco
    """
    sparsity = values.pop("sparsity", None)
    if sparsity is not None:
        if "pattern" in values:
            raise UsageError("--pattern and --sparsity say the same thing: give one of them.")
        values["pattern"] = sparsity
    return with_options(values)


@recipe_command(RepairRecipe)
def repair(values: Values) -> Values:
    """Repair a pruned model.

    The dense model teaches: each block learns its outputs, then SparseLoRA is trained and merged into the
    weights. Kept weights change, no zero moves.

    \b
    Example:
      ressa repair runs/pruned -o runs/repaired
      ressa repair runs/llava --dense ./llava -o runs/llava-repaired --data ./coco --samples 25000
    """
    return with_options(values)


@recipe_command(EvaluateRecipe, writes_folder=False)
def evaluate(values: Values) -> Values:
    """Score a model on images and text.

    Questions, captions and retrieval, by the official protocols.

    \b
    Example:
      ressa evaluate embedded --limit 200
      ressa evaluate runs/repaired --tasks vqa,caption --data ./coco --json scores.json
    """
    return values


@recipe_command(SweepRecipe)
def sweep(values: Values) -> Values:
    """Prune many ways, score each, and draw where sparsity should go.

    Points that are finished are kept, so that an interrupted sweep goes on; the folder gets a CSV and a PNG,
    the paper's curves beside the model's own.

    \b
    Example:
      ressa sweep embedded -o runs/sweep --figure modality --seeds 0,1,2 --limit 100
      ressa sweep ./llava -o runs/sweep --figure allocation --method sparsegpt --data ./coco --calibration ./coco
    """
    return with_options(values)


@recipe_command(ReportRecipe)
def report(values: Values) -> Values:
    """Show models side by side on one page, and where each looks.

    Scores, zeros by block, the plan, what it cost; and of some questions what each model attends to and which parts
    of the picture its answer needs. The page is one file that loads nothing; the numbers lie beside it as JSON.

    \b
    Example:
      ressa report runs/demo/repaired -o report.html
      ressa report runs/pruned runs/repaired -o report.html --data ./coco --looks 50
    """
    return values


@command
def run(
    recipe: Annotated[Path, typer.Argument(help="A YAML file (docs/recipe.md shows one).")],
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A value in place of the file's, as in --set model=embedded: of a name of its 'let' or 'for', or "
            "else of a key of every recipe that has it; repeatable.",
        ),
    ] = None,
    dry_run: DryRun = False,
    force: Force = False,
    json_target: JsonTarget = None,
) -> None:
    """Run the recipes in a file, in order.

    \b
    Example:
      ressa run prune-and-repair.yaml
      ressa run recipes/wanda.yaml --set model=embedded --set pattern=2:4 --dry-run
    """
    recipes = read_recipes(recipe, _given(given or ()))
    estimate_recipes(recipes, json_target) if dry_run else run_recipes(recipes, force, json_target)


def _given(texts: Sequence[str]) -> dict[str, Any]:
    """Turn --set name=value into a mapping."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"--set {brief(text)} is not of the form name=value: write it so.")
        found[name] = read_value(value)
    return found
