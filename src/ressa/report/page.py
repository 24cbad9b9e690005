"""The page of `ressa report`: one HTML file that loads nothing, drawn from its numbers and the pictures."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from ressa.data.images import open_image
from ressa.data.sample import Picture
from ressa.files import write_text
from ressa.report.drawings import bars_of_blocks, map_uri, picture_uri
from ressa.report.table import NOTHING, Table, comparison_table, task_title

TEMPLATE = Path(__file__).with_name("page.html.jinja")
KINDS = ("attention", "occlusion")


def write_page(path: Path, result: Mapping[str, Any], pictures: Sequence[Picture], shown: int) -> None:
    """Write the page. result: what `ressa report` writes as JSON; pictures: those of its questions; shown: how many
    of these are drawn, beginning with those that models answer differently."""
    write_text(path, page(result, pictures, shown))


def page(result: Mapping[str, Any], pictures: Sequence[Picture], shown: int) -> str:
    """The page as text; every word of the data is escaped."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["map_uri"] = map_uri
    models = result["models"]
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        result=result,
        models=models,
        scores=models_table(models),
        kinds=kinds_table(models),
        seeing=seeing_table(models),
        cost=cost_table(models),
        figures=[
            (each["name"], bars_of_blocks(each["blocks"], f"zeros of each block, {each['name']}"))
            for each in models
            if each["blocks"]
        ],
        plans=[(each["name"], plan_lines(each)) for each in models if each["kind"] == "pruned"],
        warnings=_warnings(result),
        samples=[_sample(result, index, pictures[index]) for index in order(models)[:shown]],
        differing=sum(_differs(models, index) for index in range(len(result["questions"]))),
        no_attention=[
            (each["name"], each["looks"]["no_attention"])
            for each in models
            if each["looks"] and each["looks"]["no_attention"]
        ],
    )


def models_table(models: Sequence[Mapping[str, Any]]) -> Table:
    """A row a task and a tower, a column a model."""
    return comparison_table(
        {each["name"]: {**each["scores"], "sparsity": each["sparsity"], "seconds": None} for each in models}
    )


def kinds_table(models: Sequence[Mapping[str, Any]]) -> Table:
    """A row a kind of question, a column a model, beneath each task that has kinds."""
    rows, sections = [], set()
    for task, score in models[0]["scores"]["tasks"].items():
        kinds = score.get("kinds", {})
        for kind, part in kinds.items():
            found = [each["scores"]["tasks"].get(task, {}).get("kinds", {}).get(kind) for each in models]
            cells = [NOTHING if one is None else f"{one['score']:.1f}" for one in found]
            rows.append((f"{task_title(task, score)}: {kind}", *cells, str(part["n"])))
        if kinds:
            sections.add(len(rows) - 1)
    return Table("", ("", *(each["name"] for each in models), "questions"), tuple(rows), frozenset(sections))


def seeing_table(models: Sequence[Mapping[str, Any]]) -> Table:
    """What pruning did to seeing, as numbers: a row a number, a column a model."""
    rows: list[tuple[str, ...]] = []
    sections = set()

    def add(label: str, values: Sequence[float | None], form: str = "{:.2f}") -> None:
        if any(value is not None for value in values):
            rows.append((label, *(NOTHING if value is None else form.format(value) for value in values)))

    first = models[0]["name"]
    compared = [each.get("compared") or {} for each in models]
    add(f"answers as {first}, %", [_percent(each.get("same_answers")) for each in compared], "{:.0f}")
    sections.add(len(rows) - 1)
    for kind in KINDS:
        found = [each.get(kind, {}) for each in compared]
        add(f"{kind}: Pearson's r with {first}'s maps", [one.get("pearson") for one in found])
        add("… Spearman's", [one.get("spearman") for one in found])
        add("… Pearson's, where both answer alike", [one.get("pearson_same") for one in found])
        add("… Pearson's, with maps of other questions", [one.get("strangers") for one in found])
        add("… share of it on what is named, %", [_percent(one.get("mass")) for one in found], "{:.0f}")
        add("… largest cell on what is named, %", [_percent(one.get("hit")) for one in found], "{:.0f}")
        add("… by chance, %", [_percent(one.get("area")) for one in found], "{:.0f}")
        sections.add(len(rows) - 1)
    for task, score in models[0]["scores"]["tasks"].items():
        if task in models[0]["swapped"]:
            scores = [each["scores"]["tasks"][task]["score"] for each in models]
            add(task_title(task, score), scores, "{:.1f}")
            add("… with another picture", [each["swapped"].get(task) for each in models], "{:.1f}")
    return Table("", ("", *(each["name"] for each in models)), tuple(rows), frozenset(sections))


def cost_table(models: Sequence[Mapping[str, Any]]) -> Table:
    """Where the time of making each model went, and on how many samples."""
    made = [each["made"] for each in models]
    parts = list(dict.fromkeys(part for each in made for part in each.get("spent", {})))
    rows = []
    for part in parts:
        spent = [each.get("spent", {}).get(part) for each in made]
        rows.append((f"{part}, s", *(NOTHING if value is None else f"{value:.1f}" for value in spent)))
    total = [sum(each["spent"].values()) if each.get("spent") else None for each in made]
    rows.append(("in all, s", *(NOTHING if value is None else f"{value:.1f}" for value in total)))
    samples = [_samples(each) for each in made]
    rows.append(("samples", *(NOTHING if value is None else f"{value:,}" for value in samples)))
    rows.append(("scored in, s", *(f"{each['scores']['seconds']:.1f}" for each in models)))
    return Table("", ("", *(each["name"] for each in models)), tuple(rows))


def _samples(made: Mapping[str, Any]) -> int | None:
    stage = "training" if made.get("kind") == "repaired" else "calibration"
    return (made.get(stage) or {}).get("samples")


def plan_lines(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was asked when a model was pruned: (what, value)."""
    made = model["made"]
    recipe, allocation = made.get("recipe", {}), made.get("allocation") or {}
    towers = [
        f"{tower} {recipe[tower]}" for tower in ("vision", "connector", "language") if recipe.get(tower)
    ]
    lines = [
        ("method", str(recipe.get("method", NOTHING))),
        ("pattern", ", ".join([str(recipe.get("pattern", NOTHING)), *towers])),
        ("allocation", f"{allocation.get('name', NOTHING)} ({allocation.get('seconds', 0)} s)"),
        ("zeros", ", ".join(f"{tower} {share:.1%}" for tower, share in model["sparsity"].items())),
    ]
    saved = allocation.get("saved") or {}
    return [*lines, *((f"{unit} saved", f"{share:.1%}") for unit, share in saved.items())]


def order(models: Sequence[Mapping[str, Any]]) -> list[int]:
    """The questions, those first that models answer differently."""
    looks = models[0]["looks"]
    return sorted(range(len(looks["looks"]) if looks else 0), key=lambda index: not _differs(models, index))


def _differs(models: Sequence[Mapping[str, Any]], index: int) -> bool:
    return (
        len({each["looks"]["looks"][index]["answer"].strip().lower() for each in models if each["looks"]}) > 1
    )


def _sample(result: Mapping[str, Any], index: int, picture: Picture) -> dict[str, Any]:
    """One question as the template takes it."""
    opened = picture if isinstance(picture, Image.Image) else open_image(picture)
    answers = []
    right = {answer.strip().lower() for answer in result["questions"][index]["answers"]}
    for each in result["models"]:
        look = each["looks"]["looks"][index]
        said = look["answer"].strip()
        answers.append(
            {
                **look,
                "name": each["name"],
                "probability": math.exp(look["log_probability"]),
                "right": said.lower() in right,
            }
        )
    return {
        **result["questions"][index],
        "index": index,
        "picture": picture_uri(opened.convert("RGB")),
        "ratio": f"{opened.width} / {opened.height}",
        "words": result["models"][0]["looks"]["words"][index],
        "looks": answers,
    }


def _warnings(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was warned of, by whom: when the models were made, and when the report was."""
    found = []
    for each in result["models"]:
        made = each["made"]
        said = [*(made.get("warnings") or []), *((made.get("training") or {}).get("warnings") or [])]
        found += [(each["name"], sentence) for sentence in said]
    return [*found, *(("report", sentence) for sentence in result["warnings"])]


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
