"""`ressa evaluate --card`: scores on the model card of a result, beside those of the models that it was made from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from ressa.checkpoint import MANIFEST, SCORES, add_scores, read_manifest
from ressa.files import check_writable, read_json, write_json
from ressa.locks import held
from ressa.report import comparison_table
from ressa.warned import warn

NAMES = ("dense", "pruned", "repaired")
SHOWN = (
    "tasks",
    "average",
    "sparsity",
    "splits",
    "recipe",
)  # what of a result is kept; a harness names no splits
# The hub's names for what is asked of a model.
ON_HUB = {"caption": "image-to-text", "vqa": "visual-question-answering"}


def check_card(folder: Path) -> None:
    """Raises UsageError unless there is a result folder whose card can be written."""
    read_manifest(folder)
    check_writable(folder / SCORES)


def put_scores(folder: Path, result: Mapping[str, Any]) -> None:
    """Write a model's result to the card of a result folder, its own or that of one that was made from it.

    result: what `ressa evaluate` found; `model` says whose it is. Results that were scored in another way are dropped,
    which is said: side by side they would mislead.
    """
    model = Path(result["model"]).expanduser()
    name = read_manifest(model).kind if (model / MANIFEST).is_file() else "dense"
    with held(folder):
        known = read_json(folder / SCORES) or {}
        others = {key: known[key] for key in known if key != name}
        alike = {key: each for key, each in others.items() if _how(each) == _how(result)}
        if dropped := sorted(others.keys() - alike.keys()):
            warn(
                f"The scores of the {dropped[0]} model on the card of {folder} were found in another way: they go."
            )
        kept = {**alike, name: {key: result[key] for key in SHOWN if key in result}}
        results = {each: kept[each] for each in NAMES if each in kept}
        if results == known:
            return
        own = results.get(read_manifest(folder).kind, {})
        add_scores(folder, comparison_table(results).markdown(), _on_hub(own), [_said(result)])
        write_json(folder / SCORES, results)  # last, so that what was cut short is done again


def _how(result: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result["recipe"].items() if key not in ("model", "batch_size")}


def _said(result: Mapping[str, Any]) -> str:
    """What the scores were found on, and how."""
    recipe = result["recipe"]
    if recipe.get("harness"):
        some = f", {recipe['limit']} documents each" if recipe.get("limit") else ""
        return f"By {recipe['harness']}, as it counts ({', '.join(recipe['harness_tasks'])}{some})."
    splits = result["splits"]
    one = set(splits.values())
    split = one.pop() if len(one) == 1 else " and ".join(f"{name} {its}" for name, its in splits.items())
    asked = {"split": split} | {
        key: recipe.get(key) for key in ("limit", "pool", "beams") if recipe.get(key) is not None
    }
    said = ", ".join(f"{key} {value}" for key, value in asked.items())
    return f"`ressa evaluate` on {_data(recipe)} ({said})."


def _data(recipe: Mapping[str, Any]) -> str:
    return Path(str(recipe.get("data", ""))).name


def _on_hub(result: Mapping[str, Any]) -> list[EvalResult]:
    """A result as a model card's metadata lists it."""
    return [
        EvalResult(
            task_type=next((kind for task, kind in ON_HUB.items() if task in name), "image-text-to-text"),
            dataset_type=name,
            dataset_name=name if result["recipe"].get("harness") else f"{name} of {_data(result['recipe'])}",
            dataset_split=result.get("splits", {}).get(name),
            metric_type=score.get("metric") or "accuracy",
            metric_value=round(score["score"], score.get("digits", 2)),
        )
        for name, score in result.get("tasks", {}).items()
    ]
