"""The whole story on one small model: dense, pruned, repaired, each evaluated from its folder on disk.

Every stage leaves a folder or a file behind and is not done again when it is there, so an interrupted demo
goes on from its last finished stage.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from ressa.checkpoint import find, read_manifest
from ressa.commands.evaluate import run_evaluate
from ressa.commands.outcome import Outcome
from ressa.commands.prune import run_prune
from ressa.commands.repair import run_repair
from ressa.commands.scores_on_card import put_scores
from ressa.commands.target import one_at_a_time, work_place
from ressa.data.folder import find_data
from ressa.errors import UsageError
from ressa.files import check_writable, fresh_directory, read_json, write_json
from ressa.progress import console
from ressa.provenance import versions
from ressa.recipe import DemoRecipe
from ressa.report import comparison_table, recovered

MODELS = ("dense", "pruned", "repaired")
NOTE = "recipe.json"
RESULTS = "results.json"
FIGURE = "results.png"
SCORES = "scores"  # as DemoRecipe.evaluate names it


@one_at_a_time
def run_demo(recipe: DemoRecipe, *, force: bool = False) -> Outcome:
    """Make the three checkpoints, evaluate each, and write the table as JSON and as bars."""
    _say(1, f"Taking the dense model: {recipe.model}")
    if force or not _begun(recipe):
        _begin(recipe)
    _say(2, "Evaluating it")
    _evaluate(recipe, "dense")
    _say(3, f"Pruning it: {recipe.method} {recipe.pattern} on vision and language")
    run_prune(recipe.prune)
    _say(4, "Evaluating the pruned model")
    _evaluate(recipe, "pruned")
    _say(5, "Repairing it: reconstruction, then SparseLoRA, taught by the dense model")
    run_repair(recipe.repair)
    _say(6, "Evaluating the repaired model")
    _evaluate(recipe, "repaired")

    from ressa.report import comparison_bars

    results = _results(recipe)
    write_json(recipe.output / RESULTS, results)
    for number, name in enumerate(MODELS[1:], 2):
        for scored in MODELS[:number]:
            put_scores(recipe.output / name, json.loads(_scores(recipe, scored).read_text(encoding="utf-8")))
    rows = {name: results[name] for name in MODELS}
    title = f"{recipe.model}, {recipe.method} {recipe.pattern}"
    comparison_bars(rows, recipe.output / FIGURE, f"{title} on vision and language, and repaired")
    return Outcome(results, [comparison_table(rows, title)], _conclusion(recipe, results))


def _begun(recipe: DemoRecipe) -> bool:
    """Whether the output folder holds this very recipe's demo, finished or not."""
    note = recipe.output / NOTE
    return (recipe.output / "dense").is_dir() and read_json(note) == recipe.identity()


def _begin(recipe: DemoRecipe) -> None:
    """Make the output folder this recipe's, with the dense model in it as a folder of its own.

    What another demo left there goes; what is no demo's is refused.
    """
    folder, note = recipe.output, recipe.output / NOTE
    if folder.exists() and not note.is_file() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not a demo's: choose another --output.")
    find(recipe.model)
    find_data(recipe.data)
    from ressa.checkpoint import load, size_of, write_model  # PyTorch comes with them

    vlm = load(recipe.model)
    check_writable(folder, room=4 * size_of(vlm.model))  # three models, and the blocks of one that is made
    unfinished = [work_place(folder / name).name for name in MODELS]
    for path in (folder / name for name in (RESULTS, FIGURE, SCORES, *unfinished, *reversed(MODELS))):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    write_json(note, recipe.identity())
    with fresh_directory(folder / "dense") as work:
        write_model(work, vlm)


def _evaluate(recipe: DemoRecipe, name: str) -> None:
    if read_json(_scores(recipe, name)) is None:
        run_evaluate(recipe.evaluate(name))


def _results(recipe: DemoRecipe) -> dict[str, Any]:
    """What `results.json` holds: a result a model, the recipe, seconds by stage, versions."""
    results: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    for name in MODELS:
        scores = json.loads(_scores(recipe, name).read_text(encoding="utf-8"))
        results[name] = {key: scores[key] for key in ("tasks", "average", "sparsity")}
        if name != "dense":
            results[name]["seconds"] = seconds[f"make {name}"] = read_manifest(recipe.output / name).seconds
        seconds[f"evaluate {name}"] = scores["seconds"]
    results["recovered"] = recovered(*(results[name]["average"] for name in MODELS))
    results["recipe"] = recipe.identity()
    results["seconds"] = {**seconds, "total": round(sum(seconds.values()), 1)}
    results["versions"] = versions()
    return results


def _conclusion(recipe: DemoRecipe, results: dict[str, Any]) -> list[str]:
    share = results["recovered"]
    if share is None:
        said = "Pruning lost nothing, so there was nothing to recover."
    else:
        said = f"Repair recovered {share:.0%} of what pruning lost (of the average)."
    return [said, f"Checkpoints, {RESULTS} and {FIGURE} are in {recipe.output}."]


def _scores(recipe: DemoRecipe, name: str) -> Path:
    return recipe.evaluate(name).output or recipe.output


def _say(stage: int, text: str) -> None:
    console.print(f"{stage}/{2 * len(MODELS)} {text}", style="bold", markup=False, highlight=False)
