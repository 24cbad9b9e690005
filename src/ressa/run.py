"""One recipe in, one finished command out."""

from dataclasses import replace

from ressa.commands.outcome import Outcome
from ressa.data.images import limit_pixels
from ressa.errors import UsageError
from ressa.processes import are_several
from ressa.recipe import EvaluateRecipe, PruneRecipe, Recipe, RepairRecipe, ReportRecipe, SweepRecipe
from ressa.warned import recorded


def run_recipe(recipe: Recipe, *, force: bool = False) -> Outcome:
    """Run a recipe. `force` replaces what is at its output instead of keeping or refusing it.

    The outcome's data have `warnings`: every sentence that was said in passing (`ressa.warned`).
    """
    if are_several() and not isinstance(recipe, PruneRecipe | RepairRecipe | EvaluateRecipe):
        raise UsageError(
            "Only prune, repair and evaluate run in several processes: "
            f"start `ressa {recipe.command}` in one."
        )
    limit_pixels(recipe.max_pixels)
    with recorded() as said:
        outcome = _run(recipe, force)
    return replace(outcome, data={**outcome.data, "warnings": said})


def _run(recipe: Recipe, force: bool) -> Outcome:
    """A command's own module is imported when it runs: no command pays for another."""
    if isinstance(recipe, PruneRecipe):
        from ressa.commands.prune import run_prune

        return run_prune(recipe, force=force)
    if isinstance(recipe, RepairRecipe):
        from ressa.commands.repair import run_repair

        return run_repair(recipe, force=force)
    if isinstance(recipe, EvaluateRecipe) and recipe.harness is not None:
        from ressa.commands.harness import run_harness

        return run_harness(recipe)
    if isinstance(recipe, EvaluateRecipe):
        from ressa.commands.evaluate import run_evaluate

        return run_evaluate(recipe)
    if isinstance(recipe, SweepRecipe):
        from ressa.commands.sweep import run_sweep

        return run_sweep(recipe, force=force)
    if isinstance(recipe, ReportRecipe):
        from ressa.commands.report import run_report

        return run_report(recipe, force=force)
    from ressa.demo import run_demo

    return run_demo(recipe, force=force)
