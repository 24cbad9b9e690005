"""`ressa report`: models side by side on one page, and where each looks."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ressa.checkpoint import DENSE, MANIFEST, Manifest, find, read_manifest
from ressa.commands.evaluate import drawn_by
from ressa.commands.inputs import find_dtype
from ressa.commands.outcome import Outcome
from ressa.commands.target import one_at_a_time, work_folder
from ressa.data.folder import find_data
from ressa.errors import UsageError
from ressa.evaluation import Drawn, Kept
from ressa.files import read_json, write_json
from ressa.provenance import fingerprint, versions
from ressa.recipe import ReportRecipe
from ressa.warned import recorded, warn

GENERATIONS = (DENSE, "pruned", "repaired")


@dataclass(frozen=True)
class Shown:
    """One model of the page: a column's title, what it is loaded by, and its manifest where ressa made it."""

    name: str
    spec: str
    manifest: Manifest | None

    @property
    def kind(self) -> str:
        return DENSE if self.manifest is None else self.manifest.kind

    @property
    def fingerprint(self) -> str:
        """What tells its weights from others of this name, without reading them."""
        place = find(self.spec)
        files = sorted(place.glob("*.safetensors")) if isinstance(place, Path) else []
        found = [f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
        return fingerprint([self.spec, *found])


@one_at_a_time
def run_report(recipe: ReportRecipe, *, force: bool = False) -> Outcome:
    """Score the models, make their maps, write the page and, beside it, its numbers as JSON.

    A model that is finished is kept until all are: a report that was cut short goes on. One that is finished is only
    drawn again.
    """
    numbers = recipe.output.with_suffix(".json")
    if numbers == recipe.output:
        raise UsageError(f"{recipe.output} is where the page's numbers go: give a name that ends in .html.")
    shown = lineage(recipe.models)
    with recorded() as said:
        drawn = drawn_by(recipe)
        # What is wrong up to here is told before PyTorch is imported.
        from ressa.report.page import models_table, write_page
        from ressa.seeing import choose, find_places

        asked = [each for task in drawn.samples.values() for each in task]
        places = find_places(Path(find_data(recipe.data)), asked, follow_links=recipe.follow_links)
        questions = choose(asked, places, recipe.looks, recipe.seed)
        identity = {
            **recipe.identity(),
            "models": [each.spec for each in shown],
            "weights": [each.fingerprint for each in shown],
            "asked": fingerprint([drawn.fingerprint, *(each.id for each in questions)]),
        }
        result = _finished(recipe.output, numbers, identity, force)
        besides = recipe.besides()
        line = f"The page is {recipe.output}, its numbers are in {numbers}."
        if result is not None:
            line = f"The numbers were there already. {line}"
            if result.get("besides") != besides:
                result["besides"] = besides
                write_json(numbers, result)
        else:
            with work_folder(recipe.output, identity, force=force) as work:
                result = _measure(recipe, shown, drawn, questions, places, work)
                result |= {"recipe": identity, "besides": besides, "versions": versions(), "warnings": said}
                write_json(numbers, result)
        write_page(recipe.output, result, [each.images[0] for each in questions], recipe.shown)
    table = models_table(result["models"])
    return Outcome({"output": str(recipe.output), **result}, [table], [*_said(result), line])


def lineage(specs: Iterable[str]) -> list[Shown]:
    """The models and what they were made from, as far as that is there: dense ones first, then pruned, then repaired.

    A column is called by its kind; where there are several of one, by the folder. Raises UsageError for what is no
    model.
    """
    found: dict[str, tuple[str, Manifest | None]] = {}
    waiting = list(specs)
    given = len(waiting)
    while waiting:
        spec, given = waiting.pop(0), given - 1
        try:
            place = find(spec)
        except UsageError:
            if given >= 0:
                raise
            warn(f"{spec} is not there (any more), so the report is made without it.")
            continue
        if str(place) in found:
            continue
        made = isinstance(place, Path) and (place / MANIFEST).is_file()
        manifest = read_manifest(place) if made else None
        found[str(place)] = (spec, manifest)
        if manifest is not None and manifest.kind != DENSE and manifest.source:
            waiting.append(manifest.source)
    kinds = [DENSE if manifest is None else manifest.kind for _, manifest in found.values()]
    named = [
        Shown(kind if kinds.count(kind) == 1 else Path(spec).name, spec, manifest)
        for kind, (spec, manifest) in zip(kinds, found.values(), strict=True)
    ]
    return sorted(named, key=lambda each: GENERATIONS.index(each.kind))


def _finished(page: Path, numbers: Path, identity: dict[str, Any], force: bool) -> dict[str, Any] | None:
    """The numbers of this very report where they are there. Raises UsageError where something else is."""
    there = [place for place in (page, numbers) if place.exists()]
    result = read_json(numbers) if numbers.is_file() and not force else None
    if isinstance(result, dict) and result.get("recipe") == json.loads(json.dumps(identity)):
        return result
    if there and not force:
        raise UsageError(f"{there[0]} exists already: choose another --output, or replace it with --force.")
    return None


def _measure(
    recipe: ReportRecipe,
    shown: Sequence[Shown],
    drawn: Drawn,
    questions: Sequence[Any],
    places: Any,
    work: Path,
) -> dict[str, Any]:
    """Everything about all models, JSON-able; each is loaded alone."""
    from ressa.anatomy import find_anatomy
    from ressa.checkpoint import load, measure
    from ressa.data import Question
    from ressa.device import find_device
    from ressa.evaluation import fitted, score
    from ressa.fast_dtype import in_fast_dtype
    from ressa.report.plans import plan_blocks
    from ressa.seeing import Looks, compare_looks, described, look, named_places, swapped
    from ressa.seeing.occlusion import SOURCE as OCCLUSION
    from ressa.seeing.route import SOURCE as ATTENTION

    device = find_device(recipe.device)
    models: list[dict[str, Any]] = []
    reference: Looks | None = None
    for index, each in enumerate(shown):
        file = work / f"{index}.json"
        told = read_json(file) if file.is_file() else None
        if told is None:
            vlm = load(each.spec, dtype=find_dtype(recipe.dtype))
            asked = fitted(drawn, vlm)
            others = (
                swapped(asked)
                if any(isinstance(task[0], Question) for task in asked.samples.values())
                else None
            )
            with in_fast_dtype(vlm.model, device=device, asked=recipe.dtype):
                options: dict[str, Any] = {"batch_size": recipe.batch_size, "device": device}
                scores = score(vlm, asked, **options, kept=Kept(work / f"{index}-answers.jsonl"))
                told = {"scores": scores, "swapped": {}, "looks": None}
                if others is not None and others.samples:
                    found = score(vlm, others, **options, kept=Kept(work / f"{index}-swapped.jsonl"))
                    told["swapped"] = {task: part["score"] for task, part in found["tasks"].items()}
                if questions:
                    words = None if reference is None else reference.words
                    seen = look(vlm, questions, words, batch_size=recipe.batch_size)
                    told["looks"] = seen.to_dict()
            told["sparsity"] = measure(vlm.model, find_anatomy(vlm.model))
            write_json(file, told)
        if told["looks"] is not None:
            seen = Looks.from_dict(told["looks"])
            reference = seen if reference is None else reference
            told["compared"] = compare_looks(reference, seen, [named_places(q, places) for q in questions])
        manifest = each.manifest
        made = {} if manifest is None else manifest.model_dump(mode="json")
        layers = [{**layer, "sparsity": layer["achieved"]} for layer in made.get("layers", [])]
        models.append(
            {
                "name": each.name,
                "model": each.spec,
                "kind": each.kind,
                **told,
                "blocks": plan_blocks(layers) if layers and each.kind != DENSE else [],
                "made": {key: made[key] for key in MADE if key in made},
            }
        )
    return {
        "models": models,
        "questions": described(questions, places),
        "maps": {"attention": ATTENTION, "occlusion": OCCLUSION},
        "data": {"name": drawn.name, "splits": drawn.splits, "limit": drawn.limit, "seed": drawn.seed},
    }


MADE = (
    "kind",
    "source",
    "recipe",
    "seconds",
    "spent",
    "computed_in",
    "allocation",
    "training",
    "calibration",
)
"""What the page tells of a manifest."""


def _said(result: dict[str, Any]) -> list[str]:
    """One line a model: how far its maps are from the first one's."""
    lines = []
    for each in result["models"][1:]:
        compared = each.get("compared") or {}
        parts = [
            f"{kind} {compared[kind]['pearson']:.2f}"
            for kind in ("attention", "occlusion")
            if kind in compared and compared[kind]["pearson"] is not None
        ]
        if parts:
            first = result["models"][0]["name"]
            lines.append(
                f"{each['name']}: correlation of its maps with those of {first}: {', '.join(parts)}."
            )
    return lines
