"""Many prunings of one model, each scored: which share of sparsity each tower should get, and which tower.

Every finished point is a file of its own, named by what decides its result. A sweep that was cut short goes on
with the points that are missing, and two sweeps into one folder share the points they have in common.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ressa.allocation.uniform import per_tower
from ressa.anatomy import find_anatomy
from ressa.checkpoint import Vlm, measure
from ressa.errors import RunError
from ressa.files import read_json, write_json
from ressa.fused import on_plain_linears
from ressa.methods import get_method
from ressa.progress import bar, say
from ressa.provenance import fingerprint, fingerprint_weights
from ressa.pruning import prune
from ressa.sparsity import Scope, parse_pattern
from ressa.warned import warn

FigureName = Literal["allocation", "modality"]
SHARES = (10, 20, 30, 40, 50, 60, 70)
PATTERNS = ("4:8", "2:4")
DENSE = "dense"


@dataclass(frozen=True)
class Point:
    """One pruning. series: the curve it belongs to. x: its place on it (vision's sparsity in per cent, or a
    sparsity in per cent, or a pattern). vision, language: patterns, or `dense`."""

    series: str
    x: str
    vision: str
    language: str


def points_of(figure: FigureName) -> list[Point]:
    """The points of one of the paper's figures.

    allocation: vision's and language's sparsity at a constant sum of 100 % and of 120 %. modality: both
    towers, the language tower only, the vision tower only, at 10–70 % and at 4:8 and 2:4.
    """
    if figure == "allocation":
        return [
            Point(f"sum {total} %", str(share), f"{share / 100}", f"{(total - share) / 100:.2g}")
            for total, first in ((100, 10), (120, 30))
            for share in range(first, 91, 10)
        ]
    towers = {"vision + language": (True, True), "language only": (False, True), "vision only": (True, False)}
    levels = {str(share): f"{share / 100}" for share in SHARES} | {text: text for text in PATTERNS}
    return [
        Point(series, x, text if vision else DENSE, text if language else DENSE)
        for series, (vision, language) in towers.items()
        for x, text in levels.items()
    ]


@on_plain_linears
def sweep(
    vlm: Vlm,
    figure: FigureName,
    folder: str | Path,
    *,
    inputs: Callable[[int], Sequence[Mapping[str, Tensor]]],
    score: Callable[[], dict[str, Any]],
    method: str = "wanda",
    seeds: Sequence[int] = (0,),
    identity: Mapping[str, Any],
    options: Mapping[str, Any] | None = None,
    scopes: Mapping[str, Scope] | None = None,
    device: torch.device | str | None = None,
) -> list[dict[str, Any]]:
    """Prune a copy of the weights for every point and seed, score it, and put the dense weights back.

    Args:
        folder: where finished points are kept, in `points/`.
        inputs: seed → calibration inputs.
        score: scores `vlm` as it is: JSON-able, with `tasks` (task → `score`) and `average`.
        identity: what else decides a score (model, samples, tasks, ...); a point of another identity is not
            taken for this one.
        options: the method's own.
        scopes: tower → over what its weights are compared, where that is not what the method's paper does; part of the
            identity, if it is given.

    Returns one row for the dense model (series `dense`), then one a point and seed: `series`, `x`, `vision`,
    `language`, `seed`, `scores` (task → score), `average`, `relative` (each task in per cent of the dense
    model's, then their mean, so that tasks of different scales count alike), `sparsity` by tower (counted),
    `seconds`.
    """
    model: Any = vlm.model if device is None else vlm.model.to(device)
    anatomy = find_anatomy(model)
    chosen, scopes = get_method(method), scopes or {}
    modules: dict[str, Any] = dict(model.named_modules())
    dense = {name: modules[name].weight.detach().clone() for name in anatomy.linears()}
    weights = fingerprint_weights(dense.values())
    prepared: dict[int, Sequence[Mapping[str, Tensor]]] = {}

    def run(point: Point, seed: int) -> dict[str, Any]:
        started = time.perf_counter()
        try:
            asked = {"vision": point.vision, "language": point.language}
            patterns = {
                tower: None if text == DENSE else parse_pattern(text, scope=scopes.get(tower, chosen.scope))
                for tower, text in asked.items()
            }
            if any(patterns.values()):
                if seed not in prepared and chosen.needs(options or {}) is not None:
                    prepared[seed] = inputs(seed)
                prune(
                    model,
                    prepared.get(seed, ()),
                    plan=per_tower(anatomy, model, patterns),
                    method=method,
                    anatomy=anatomy,
                    seed=seed,
                    options=options,
                )
            result = score()
            return {
                "scores": {task: found["score"] for task, found in result["tasks"].items()},
                "average": result["average"],
                "sparsity": measure(model, anatomy),
                "seconds": round(time.perf_counter() - started, 1),
            }
        finally:
            with torch.no_grad():
                for name, weight in dense.items():
                    modules[name].weight.copy_(weight)

    asked = [(Point(DENSE, "0", DENSE, DENSE), 0), *((p, s) for p in points_of(figure) for s in seeds)]
    recipes: list[dict[str, Any]] = []
    for point, seed in asked:
        dense_point = point.series == DENSE  # whatever it is compared with, it is the same
        recipes.append(
            {
                **identity,
                "weights": weights,
                "method": None if dense_point else method,
                "options": {} if dense_point else dict(options or {}),
                "vision": point.vision,
                "language": point.language,
                "seed": seed,
            }
        )
    names = [f"{fingerprint([json.dumps(recipe, sort_keys=True)])}.json" for recipe in recipes]
    paths = [Path(folder) / "points" / name for name in names]
    if there := sum(path.is_file() for path in paths):
        say(f"An earlier run finished {there} of {len(paths)} points: going on from there.")
    rows: list[dict[str, Any]] = []
    with bar(f"Sweep ({figure})", len(asked)) as progress:
        for (point, seed), recipe, path in zip(asked, recipes, paths, strict=True):
            finished = read_json(path)
            if finished is None:
                finished = {"recipe": recipe, **run(point, seed)}
                write_json(path, finished)
            found = {key: value for key, value in finished.items() if key != "recipe"}
            if point.series == DENSE:
                _check_comparable(found["scores"])
            rows.append({**asdict(point), "seed": seed, "method": method, **found})
            progress.advance()
    for row in rows:
        row["relative"] = relative(row["scores"], rows[0]["scores"])
    return rows


def _check_comparable(dense: Mapping[str, float]) -> None:
    """Raises RunError if the dense model scores 0 on every task; says so of single ones."""
    nothing = [task for task, score in dense.items() if not score > 0]
    if len(nothing) == len(dense):
        raise RunError(
            f"The dense model scores 0 on {', '.join(nothing)}, so nothing can be compared with it: "
            "check the model with `ressa evaluate`, or choose other tasks."
        )
    if nothing:
        warn(f"The dense model scores 0 on {', '.join(nothing)}, which the comparison leaves out.")


def relative(scores: Mapping[str, float], dense: Mapping[str, float]) -> float:
    """The mean over tasks of a score in per cent of the dense model's; tasks that it scores 0 on are left out."""
    shares = [100 * scores[task] / score for task, score in dense.items() if score > 0]
    return sum(shares) / len(shares)
