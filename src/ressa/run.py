"""One recipe in, one finished command out."""

from ressa.commands.evaluate import run_evaluate
from ressa.commands.outcome import Outcome
from ressa.commands.prune import run_prune
from ressa.commands.repair import run_repair
from ressa.commands.sweep import run_sweep
from ressa.demo import run_demo
from ressa.errors import UsageError
from ressa.processes import are_several
from ressa.recipe import EvaluateRecipe, PruneRecipe, Recipe, RepairRecipe, SweepRecipe


def run_recipe(recipe: Recipe, *, force: bool = False) -> Outcome:
    """Run a recipe. `force` replaces what is at its output instead of keeping or refusing it."""
    if are_several() and not isinstance(recipe, RepairRecipe):
        raise UsageError(f"Only a repair runs in several processes: start `ressa {recipe.command}` in one.")
    if isinstance(recipe, PruneRecipe):
        return run_prune(recipe, force=force)
    if isinstance(recipe, RepairRecipe):
        return run_repair(recipe, force=force)
    if isinstance(recipe, EvaluateRecipe):
        return run_evaluate(recipe)
    if isinstance(recipe, SweepRecipe):
        return run_sweep(recipe, force=force)
    return run_demo(recipe, force=force)
