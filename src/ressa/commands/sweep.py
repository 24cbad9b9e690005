"""`ressa sweep`: many prunings of one model, scored, as CSV and figure."""

import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from ressa.checkpoint import find
from ressa.commands.inputs import draw_samples, find_dtype, fitting
from ressa.commands.outcome import Outcome
from ressa.commands.target import one_at_a_time
from ressa.data import Sample
from ressa.data.crops import cropped_all
from ressa.data.folder import CALIBRATED, find_data
from ressa.errors import UsageError
from ressa.evaluation import draw
from ressa.files import write_json
from ressa.recipe import SweepRecipe
from ressa.recipe.sources import folders_of

if TYPE_CHECKING:
    from torch import Tensor

    from ressa.checkpoint import Vlm


@one_at_a_time
def run_sweep(recipe: SweepRecipe, *, force: bool = False) -> Outcome:
    """Run the points that are not in the output folder yet, then write `FIGURE.csv`, `.json` and `.png`.

    force: run finished points again.
    """
    output, figure = recipe.output, recipe.figure
    if output.exists() and not (
        output.is_dir() and (not any(output.iterdir()) or (output / "points").is_dir())
    ):
        raise UsageError(f"{output} exists and is not a sweep's: choose another --output.")
    find(recipe.model)
    for folder in (recipe.data, *folders_of(recipe.calibration)):
        find_data(folder)
    drawn = draw(
        recipe.data,
        recipe.tasks,
        split=recipe.split,
        limit=recipe.limit,
        pool=recipe.pool or None,
        seed=recipe.seed,
        on_bad=recipe.on_bad_sample,
        follow_links=recipe.follow_links,
        **recipe.asking(),
    )
    # What is wrong up to here is told before PyTorch is imported.
    from ressa.checkpoint import load
    from ressa.data import batches
    from ressa.device import find_device
    from ressa.evaluation import fitted, score
    from ressa.fast_dtype import in_fast_dtype
    from ressa.methods import get_method
    from ressa.report.sweep import sweep_figure, sweep_table, write_csv
    from ressa.sweep import sweep

    device = find_device(recipe.device)
    vlm = load(recipe.model, dtype=find_dtype(recipe.dtype), unpack=True)
    drawn = fitted(drawn, vlm)
    calibrated = get_method(recipe.method).needs(recipe.options) is not None
    samples = {seed: _samples(recipe, vlm, seed) for seed in recipe.seeds} if calibrated else {}
    if force:
        shutil.rmtree(output / "points", ignore_errors=True)

    def inputs(seed: int) -> Sequence[Mapping[str, "Tensor"]]:
        return batches(vlm, samples[seed], recipe.batch_size)

    with in_fast_dtype(vlm.model, device=device, asked=recipe.dtype):
        rows = sweep(
            vlm,
            figure,
            output,
            inputs=inputs,
            score=lambda: score(vlm, drawn, batch_size=recipe.batch_size),
            method=recipe.method,
            seeds=recipe.seeds,
            identity={**recipe.identity(), "questions": recipe.seed},
            options=recipe.options,
            scopes={} if recipe.vision_scope is None else {"vision": recipe.vision_scope},
            device=device,
        )
    name = f"{recipe.model.rstrip('/').rpartition('/')[2]}: {recipe.method}"
    written = {ending: output / f"{figure}-{recipe.method}.{ending}" for ending in ("json", "csv", "png")}
    result = {"figure": figure, "recipe": {**recipe.model_dump(mode="json", exclude={"output", "device"})}}
    write_json(written["json"], {**result, "rows": rows})
    write_csv(rows, written["csv"])
    sweep_figure(rows, figure, written["png"], f"{name}, {_count(recipe.seeds)} (dashed: the paper's)")
    return Outcome(
        {"output": str(output), **result, "rows": rows},
        [sweep_table(rows, f"{name}, % of dense")],
        [f"{written['csv']} and {written['png']} are written."],
    )


def _samples(recipe: SweepRecipe, vlm: "Vlm", seed: int) -> list[Sample]:
    again = partial(
        draw_samples,
        recipe.calibration,
        recipe.calibration_split,
        recipe.samples,
        seed=seed,
        order=CALIBRATED,
        on_bad=recipe.on_bad_sample,
        follow_links=recipe.follow_links,
    )
    found = fitting(again(recipe.mixture), vlm, recipe.on_bad_sample, recipe.mixture, again)
    return cropped_all(found, seed) if recipe.crops else found


def _count(seeds: Sequence[int]) -> str:
    return "1 seed" if len(seeds) == 1 else f"{len(seeds)} seeds"
