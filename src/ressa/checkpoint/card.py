"""The model card of a result folder: README.md as the hub reads it, made from the manifest.

It holds nothing that differs between two runs of one recipe. The card of the model that all began with stays beside it
(`BASE_CARD`), and its licence, language and tags go into the front matter. Two of its sections lie between comments, so
that they can be written anew in a card that a person has gone on with: how to load the model, and its scores.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ressa import __version__
from ressa.checkpoint.manifest import DENSE, Manifest
from ressa.checkpoint.place import read_config
from ressa.files import write_text
from ressa.runtime.format import is_packed
from ressa.warned import warn

CARD = "README.md"
BASE_CARD = "README.base.md"
KEPT = ("license", "license_name", "license_link", "language")  # of the base's front matter
LICENCE = re.compile(r"(licen[cs]e|copying)([.-].*)?", re.IGNORECASE)
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
PAPER = "https://arxiv.org/abs/2404.02424"
TOWERS = ("vision", "connector", "language")


def write_card(folder: Path, manifest: Manifest) -> None:
    """Write the card of a result. One that lies there already is the base's and is kept as that, unless ressa wrote
    it for the model that the result was made of."""
    card = folder / CARD
    if (
        card.is_file()
        and not (folder / BASE_CARD).exists()
        and _begin("use").encode() not in card.read_bytes()
    ):
        card.replace(folder / BASE_CARD)
    write_text(card, f"---\n{_front_matter(folder, manifest)}\n---\n\n{_body(folder, manifest)}")


def renew_use(folder: Path) -> None:
    """Say anew how to load the model in a folder that was packed or unpacked; nothing where there is no card."""
    path = folder / CARD
    if path.is_file():
        write_text(path, _with_section(path.read_text(encoding="utf-8"), "use", _use(folder)))


def add_scores(folder: Path, table: str, results: Sequence[EvalResult], notes: Sequence[str] = ()) -> None:
    """Write scores into the card of a result folder, in place of those it had: a Markdown table, what it was scored
    with, and the model's own results as the hub lists them."""
    path = folder / CARD
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    body = "\n".join(["## Scores", "", table.strip(), *(["", *notes] if notes else [])])
    card: Any = ModelCard(_with_section(text, "scores", body))
    card.data.model_name = folder.resolve().name
    card.data.eval_results = list(results)
    write_text(path, str(card))


def recipe_yaml(recipes: Sequence[Mapping[str, Any]]) -> str:
    """Recipes as a file of recipes holds them, one document each."""
    return yaml.safe_dump_all(recipes, sort_keys=False, allow_unicode=True, explicit_start=len(recipes) > 1)


def base_of(manifest: Manifest) -> str:
    """The hub id of the model that all began with, or what its folder is called."""
    base = manifest.base or manifest.source
    if _on_hub(base):
        return base
    cached = re.search(r"models--([\w.-]+?)--([\w.-]+)/snapshots/", base)
    return f"{cached[1]}/{cached[2]}" if cached else Path(base).name


def _on_hub(name: str) -> bool:
    return bool(HUB_ID.fullmatch(name)) and not Path(name).exists()


def _front_matter(folder: Path, manifest: Manifest) -> str:
    base, given = base_of(manifest), _of_base(folder)
    values: dict[str, Any] = {key: given[key] for key in KEPT if given.get(key)}
    licence = next((path.name for path in sorted(folder.iterdir()) if LICENCE.fullmatch(path.name)), None)
    if "license" not in values and licence is not None:
        values |= {"license": "other", "license_name": "as-the-base-model", "license_link": licence}
    if HUB_ID.fullmatch(base):
        values["base_model"] = base
    tag = _task(folder) or given.get("pipeline_tag")
    tags = given.get("tags")
    own = ["ressa", "sparse", manifest.kind, *_patterns(manifest), *_methods(manifest)]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=tag if isinstance(tag, str) else None,
        tags=list(dict.fromkeys([*own, *map(str, tags if isinstance(tags, list) else ())])),
        **values,
    )
    return data.to_yaml()


def _of_base(folder: Path) -> dict[str, Any]:
    """The front matter of the base's card; of a card whose front matter is none, nothing, which is said."""
    path = folder / BASE_CARD
    if not path.is_file():
        return {}
    try:
        return ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True).data.to_dict()
    except (ValueError, TypeError, yaml.YAMLError):
        warn(
            f"The front matter of the base model's {CARD} cannot be read, so its licence is not in the new one."
        )
        return {}


def _task(folder: Path) -> str | None:
    """The hub's name of what transformers' pipelines use the model for."""
    from transformers.models.auto import modeling_auto

    kind = read_config(folder).get("model_type")
    if kind in modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return "image-text-to-text"
    if kind in modeling_auto.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES:
        return "zero-shot-image-classification"
    return None


def _patterns(manifest: Manifest) -> list[str]:
    asked = (recipe.get(key) for recipe in manifest.told("") for key in ("pattern", *TOWERS))
    return list(dict.fromkeys(pattern for pattern in asked if isinstance(pattern, str) and pattern != DENSE))


def _methods(manifest: Manifest) -> list[str]:
    """What pruned and what repaired, in order."""
    named = ("prune", "method", "wanda"), ("repair", "method", "sparse_lora")
    found = []
    for recipe in manifest.told(""):
        for command, key, default in named:
            if recipe.get("command") == command:
                found.append(str(recipe.get(key) or recipe.get("options", {}).get(key, default)))
    return list(dict.fromkeys(found))


def _body(folder: Path, manifest: Manifest) -> str:
    base = base_of(manifest)
    link = f"[{base}](https://huggingface.co/{base})" if HUB_ID.fullmatch(base) else f"`{base}`"
    shares = [f"{tower} {share:.1%}" for tower, share in manifest.towers.items() if share]
    how = ", ".join(_methods(manifest))
    done = {"pruned": "pruned", "repaired": "pruned and repaired"}.get(manifest.kind, "stored")
    parts = [
        f"# {base}, {done}",
        f"{link}, {done} by ressa {__version__}"
        + (f" ({how}; [paper]({PAPER}))" if how else "")
        + (f": zeros in {', '.join(shares)}." if shares else ".")
        + " Every zero is exact; `ressa.json` holds the count of each layer, `ressa inspect` counts again.",
        _sparsity(manifest),
        *_held_back(manifest),
        _section("scores", ""),
        _section("use", _use(folder)),
        *_made(manifest),
        _rights(folder, base),
    ]
    return "\n\n".join(parts) + "\n"


def _sparsity(manifest: Manifest) -> str:
    rows = []
    for tower, share in manifest.towers.items():
        layers = [layer for layer in manifest.layers if layer.tower == tower]
        asked = list(dict.fromkeys(layer.asked for layer in layers))
        said = ", ".join(asked[:3]) + (f" and {len(asked) - 3} more" if len(asked) > 3 else "")
        weights = sum(layer.shape[0] * layer.shape[1] for layer in layers)
        rows.append((tower, said, f"{share:.2%}", f"{weights:,}"))
    return _table(("tower", "asked", "zeros, counted", "weights of its linear layers"), rows)


def _held_back(manifest: Manifest) -> list[str]:
    """What repair found on samples that it did not train on."""
    report = (manifest.model_extra or {}).get("training", {}).get("held_back") or {}
    models = [name for name in ("dense", "pruned", "repaired") if report.get(name)]
    if not models:
        return []
    unit = "token" if "answers" in report[models[0]] else "pair"
    shown = {"loss": (f"loss, nats a {unit}", ".3f"), "answers": ("answers right, %", ".1f")}
    # A dual encoder's: whether the nearest text or picture is the right one, and its matching head.
    shown |= {key: (f"{key}, %", ".1f") for key in ("TR@1", "IR@1", "ITM")}
    rows = [
        (label, *(f"{report[name][key]:{form}}" for name in models))
        for key, (label, form) in shown.items()
        if all(key in report[name] for name in models)
    ]
    text = f"On {report['samples']} samples that repair did not train on:"
    return ["## Before and after", text, _table(("", *models), rows)]


def _use(folder: Path) -> str:
    packed = is_packed(folder)
    name = (read_config(folder).get("architectures") or ["AutoModel"])[0]
    lines = [
        *(["import ressa  # reads packed weights"] if packed else []),
        f"from transformers import AutoProcessor, {name}",
        "",
        f"model = {name}.from_pretrained(FOLDER_OR_HUB_ID)",
        "processor = AutoProcessor.from_pretrained(FOLDER_OR_HUB_ID)",
    ]
    needs = "Its pruned weights are packed: it needs `pip install ressa`." if packed else "It needs no ressa."
    return "\n".join(["## Use", "", needs, "", "```python", *lines, "```"])


def _made(manifest: Manifest) -> list[str]:
    recipes = [recipe for recipe in manifest.told("OUTPUT") if recipe.get("command")]
    if not recipes:
        return []
    used = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    return [
        "## How it was made",
        f"`ressa run` makes it again from this (paths are of the folder it was started in; {used}):",
        f"```yaml\n{recipe_yaml(recipes)}```",
    ]


def _rights(folder: Path, base: str) -> str:
    own = _of_base(folder)
    licence = own.get("license_name") or own.get("license")
    files = sorted(path.name for path in folder.iterdir() if LICENCE.fullmatch(path.name))
    said = f"That of {base}: {licence}." if licence else f"That of {base}, whose card names none."
    if files:
        said += f" Its text: {', '.join(f'[{name}]({name})' for name in files)}."
    kept = (
        f" The card of {base} is kept as [{BASE_CARD}]({BASE_CARD})."
        if (folder / BASE_CARD).is_file()
        else ""
    )
    return f"## Licence\n\n{said}{kept}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (columns, rule, *rows))


def _begin(name: str) -> str:
    return f"<!-- ressa: {name} -->"


def _section(name: str, body: str) -> str:
    return f"{_begin(name)}\n{body}\n<!-- ressa: end -->"


def _with_section(text: str, name: str, body: str) -> str:
    """The text with a section written anew; at its end where it has none."""
    found = re.compile(rf"{_begin(name)}\n.*?<!-- ressa: end -->", re.DOTALL)
    section = _section(name, body)
    if found.search(text):
        return found.sub(lambda _: section, text, count=1)
    return f"{text.rstrip()}\n\n{section}\n"
