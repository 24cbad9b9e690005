"""`ressa evaluate --harness`: somebody else's harness scores the model, and its numbers stand in ressa's tables."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ressa.cache import cache_folder
from ressa.checkpoint import find
from ressa.commands.outcome import Outcome
from ressa.commands.scores_on_card import check_card, put_scores
from ressa.commands.target import work_folder
from ressa.errors import UsageError
from ressa.files import check_writable, write_json
from ressa.harness import run_lmms_eval
from ressa.locks import held
from ressa.processes import are_several
from ressa.provenance import fingerprint
from ressa.recipe import EvaluateRecipe
from ressa.report import scores_table


def run_harness(recipe: EvaluateRecipe) -> Outcome:
    """Score by the harness that the recipe names; the model's answers are kept until all are there."""
    if are_several():
        raise UsageError(f"{recipe.harness} is run in one process: start `ressa evaluate --harness` in one.")
    find(recipe.model)
    if recipe.card is not None:
        check_card(recipe.card)
    if recipe.include_path is not None and not recipe.include_path.is_dir():
        raise UsageError(f"There is no folder {recipe.include_path}: name one with YAML files of tasks.")
    started = time.perf_counter()
    with _kept(recipe) as kept:
        result = run_lmms_eval(
            recipe.model,
            recipe.harness_tasks,
            python=recipe.harness_python,
            include_path=recipe.include_path,
            limit=recipe.limit,
            batch_size=recipe.batch_size,
            device=recipe.device,
            dtype=recipe.dtype,
            seed=recipe.seed,
            max_pixels=recipe.max_pixels,
            kept=kept,
        )
    seconds = round(time.perf_counter() - started, 1)
    data = {
        "model": recipe.model,
        **result,
        "seconds": seconds,
        "recipe": recipe.identity(),
        "besides": recipe.besides(),
    }
    if recipe.output is not None:
        write_json(recipe.output, data)
    if recipe.card is not None:
        put_scores(recipe.card, data)
    line = f"Scored by lmms-eval {result['harness']['version']}; its tasks differ in what they count up to."
    return Outcome(data, [scores_table(data, recipe.model)], [line])


@contextmanager
def _kept(recipe: EvaluateRecipe) -> Iterator[Path | None]:
    """The file in which answers are kept meanwhile; None on a machine that keeps nothing."""
    identity = recipe.identity()
    place = recipe.output or cache_folder() / "evaluations" / fingerprint(
        [json.dumps(identity, sort_keys=True)]
    )
    try:
        check_writable(place)
    except UsageError:
        if recipe.output is not None:
            raise
        yield None
        return
    with held(place), work_folder(place, identity, force=True) as work:
        yield work / "answers.jsonl"
