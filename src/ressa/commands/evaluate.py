"""`ressa evaluate`: a model's scores on the tasks of a dataset folder."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ressa.cache import cache_folder
from ressa.checkpoint import find
from ressa.commands.inputs import find_dtype
from ressa.commands.outcome import Outcome
from ressa.commands.scores_on_card import check_card, put_scores
from ressa.commands.target import work_folder, work_place
from ressa.errors import UsageError
from ressa.evaluation import Drawn, Kept, draw
from ressa.evaluation.predictions import write_predictions
from ressa.files import check_writable, read_json, write_json
from ressa.locks import held
from ressa.processes import is_first, meet
from ressa.provenance import fingerprint, fingerprint_weights, versions
from ressa.recipe import EvaluateRecipe, ReportRecipe
from ressa.report import scores_table
from ressa.warned import recorded

if TYPE_CHECKING:
    import torch

ANSWERS = "answers.jsonl"


def run_evaluate(recipe: EvaluateRecipe) -> Outcome:
    """Evaluate; the scores go, with the model's sparsity and the recipe, to a JSON file if one is named, and every
    answer to a file beside it.

    Answers are kept until all are there: an evaluation that was cut short goes on where it was. Several processes
    share out what is asked; the first one writes.
    """
    find(recipe.model)
    if recipe.card is not None:
        check_card(recipe.card)
    predictions = recipe.place_of_predictions()
    if predictions is not None and is_first():
        check_writable(predictions)
    with recorded() as said:
        drawn = drawn_by(recipe)
        # What is wrong up to here is told before PyTorch is imported.
        from ressa.anatomy import find_anatomy
        from ressa.checkpoint import load, measure
        from ressa.device import find_device
        from ressa.evaluation import answer, fitted, result_of
        from ressa.fast_dtype import in_fast_dtype

        device = find_device(recipe.device)
        meet(device)
        vlm = load(recipe.model, dtype=find_dtype(recipe.dtype))
        drawn = fitted(drawn, vlm)
        with in_fast_dtype(vlm.model, device=device, asked=recipe.dtype) as computed_in:
            begun = _identity(recipe, drawn, vlm.model, f"{computed_in} on {device.type}")
            with _kept(recipe, begun, device) as kept:
                answered = answer(vlm, drawn, batch_size=recipe.batch_size, device=device, kept=kept)
                result = result_of(drawn, answered)
    data = {
        "model": recipe.model,
        **result,
        "sparsity": measure(vlm.model, find_anatomy(vlm.model)),
        "recipe": recipe.identity(),
        "besides": recipe.besides(),
        "warnings": said,
    }
    lines = []
    if is_first():
        if predictions is not None:
            made = {key: data[key] for key in ("model", "recipe", "data", "computed_in", "versions")}
            write_predictions(predictions, drawn, answered.predictions, made)
            lines.append(f"Every answer is in {predictions}; `ressa score` scores them again.")
        if recipe.output is not None:
            write_json(recipe.output, data)
        if recipe.card is not None:
            put_scores(recipe.card, data)
    return Outcome(data, [scores_table(data, recipe.model)], lines)


def drawn_by(recipe: EvaluateRecipe | ReportRecipe, *, look: bool = True) -> Drawn:
    """What the recipe asks about. look: open the pictures."""
    asking = recipe.asking() if isinstance(recipe, EvaluateRecipe) else {}
    return draw(
        recipe.data,
        recipe.tasks,
        split=recipe.split,
        limit=recipe.limit,
        pool=recipe.pool or None,
        seed=recipe.seed,
        on_bad=recipe.on_bad_sample,
        follow_links=recipe.follow_links,
        look=look,
        **asking,
    )


def _identity(recipe: EvaluateRecipe, drawn: Drawn, model: Any, computed: str) -> dict[str, Any]:
    """What decides the answers."""
    return {
        **recipe.identity(),
        "weights": fingerprint_weights(model.state_dict().values()),
        "asked": drawn.fingerprint,
        "computed": computed,
        "versions": versions(),
    }


@contextmanager
def _kept(recipe: EvaluateRecipe, identity: dict[str, Any], device: "torch.device") -> Iterator[Kept]:
    """Where the answers are kept: beside the file of the scores, else among what ressa can make again.

    Those of another evaluation are dropped, as its scores would be.
    """
    place = recipe.output
    if place is None or (place.exists() and not place.is_file()):
        place = cache_folder() / "evaluations" / fingerprint([json.dumps(identity, sort_keys=True)])
    if not is_first():
        meet(device)  # the first process has made the folder, or found that it cannot
        folder = work_place(place)
        yield Kept(folder / ANSWERS if folder.is_dir() else None)
        return
    try:
        check_writable(place)
    except UsageError:  # a machine that keeps nothing
        if recipe.output is not None:
            raise
        meet(device)
        yield Kept()
        return
    with held(place):
        begun = read_json(work_place(place) / "recipe.json")
        with work_folder(place, identity, force=begun != identity) as work:
            meet(device)
            yield Kept(work / ANSWERS)
