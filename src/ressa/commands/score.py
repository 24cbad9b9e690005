"""`ressa score`: predictions that were saved, scored again."""

from pathlib import Path
from typing import Any

from ressa.commands.evaluate import drawn_by
from ressa.commands.outcome import Outcome
from ressa.data.images import limit_pixels
from ressa.evaluation.predictions import read_predictions
from ressa.recipe import EvaluateRecipe, make_recipe
from ressa.report import scores_table
from ressa.warned import recorded, warn


def score_predictions(path: Path, **asked: Any) -> Outcome:
    """Score a file of predictions; no model is needed.

    What is asked for is that of the evaluation which wrote the file, but for what is given: fields of `EvaluateRecipe`
    (`data`, `tasks`, `split`, `metric`, `caption_metrics`, …), where None gives nothing.

    Raises UsageError where the file does not answer what is asked.
    """
    given = {name: value for name, value in asked.items() if value is not None}
    tasks = given.get("tasks")
    saved = read_predictions(path, tasks if isinstance(tasks, str) and "," not in tasks else None)
    known = EvaluateRecipe.model_fields
    before = {name: value for name, value in saved.made.get("recipe", {}).items() if name in known}
    recipe = make_recipe(
        {"model": "none", **before, "tasks": list(saved.said), **given, "command": "evaluate"}
    )
    assert isinstance(recipe, EvaluateRecipe)
    limit_pixels(recipe.max_pixels)
    with recorded() as said:
        drawn = drawn_by(recipe, look=False)
        made_on = saved.made.get("data", {}).get("fingerprint")
        answered, predictions = saved.of(drawn)
        if made_on not in (None, answered.fingerprint) and not given:
            warn(f"The data are not those that {path} was made from: prompts, references or pictures differ.")
        from ressa.evaluation import rate

        result = rate(answered, predictions)
    data = {
        "model": saved.made.get("model", str(path)),
        "predictions": str(path),
        **result,
        "splits": drawn.splits,
        "limit": drawn.limit,
        "data": {"name": drawn.name, "fingerprint": answered.fingerprint},
        "made": saved.made,
        "warnings": said,
    }
    return Outcome(data, [scores_table(data, f"{data['model']} ({path.name})")])
