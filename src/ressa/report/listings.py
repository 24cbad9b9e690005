"""One model at a time: its scores, the zeros of its towers, the zeros of its layers."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from ressa.report.table import NOTHING, Table, shown, task_title

PARTS = (
    *("recall", "precision", "f1", "yes_ratio", "BLEU-4", "METEOR", "SPICE"),
    *("TR@1", "TR@5", "TR@10", "IR@1", "IR@5", "IR@10"),
    *("top-5", "mean per class"),
)
"""What a task may tell besides its score."""
KINDS = 12  # that are shown of a task: of more, those with the most samples


def scores_table(result: Mapping[str, Any], title: str = "") -> Table:
    """What `ressa evaluate` found: a row a task and, indented beneath it, a row a kind of question and of answer; then
    the average."""
    rows: list[tuple[str, ...]] = []
    sections = set()
    for task, score in result["tasks"].items():
        rows.append((task_title(task, score), shown(score["score"], score.get("digits")), str(score["n"])))
        rows += _apart(score)
        rows += [(f"  {name}", f"{score[name]:.1f}", "") for name in PARTS if name in score]
        if found := score.get("unanswerable"):
            for title, name in (("F1", "f1"), ("average precision", "average_precision")):
                rows.append((f"  unanswerable, {title}", f"{found[name]:.1f}", str(found["n"])))
        sections.add(len(rows) - 1)
    if result["average"] is not None:
        rows.append(("average", shown(result["average"]), ""))
    return Table(title, ("", "score", "samples"), tuple(rows), frozenset(sections))


def _apart(score: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row a kind."""
    kinds = list(score.get("kinds", {}).items())
    most = sorted(kinds, key=lambda pair: -pair[1]["n"])[:KINDS]
    shown_kinds = [pair for pair in kinds if pair in most]
    there = dict(kinds)
    types = [pair for pair in score.get("answer_types", {}).items() if pair[0] not in there]
    rows: list[tuple[str, ...]] = [
        (f"  {kind}", f"{part['score']:.1f}", str(part["n"])) for kind, part in (*types, *shown_kinds)
    ]
    if len(kinds) > KINDS:
        rows.append((f"  … and {len(kinds) - KINDS} more kinds (--json has them)", "", ""))
    return rows


def towers_table(count: Mapping[str, Any], title: str = "") -> Table:
    """The zeros of each tower. count: `towers` (tower → share of zeros), `layers` (tower, shape, asked),
    `prunable` (tower → the share of its blocks' weights that these are)."""
    rows = []
    for tower, share in count["towers"].items():
        layers = [layer for layer in count["layers"] if layer["tower"] == tower]
        weights = sum(prod(layer["shape"]) for layer in layers)
        prunable = count.get("prunable", {}).get(tower)
        said = NOTHING if prunable is None else f"{prunable:.1%}"
        rows.append((tower, _asked(layers), f"{share:.2%}", str(len(layers)), f"{weights:,}", said))
    return Table(title, ("tower", "asked", "zeros", "layers", "weights", "prunable"), tuple(rows))


def _asked(layers: Sequence[Mapping[str, Any]]) -> str:
    """The patterns of a tower's layers; of many, how many there are."""
    asked = dict.fromkeys(layer["asked"] or NOTHING for layer in layers)
    return ", ".join(asked) if len(asked) <= 4 else f"{len(asked)} patterns"


def manifest_table(manifest: Mapping[str, Any], title: str = "") -> Table:
    """What a manifest says of each tower: `towers`, `layers` and the `seconds` it took."""
    return towers_table(manifest, f"{title} ({manifest['seconds']:.0f} s)")


def layers_table(count: Mapping[str, Any]) -> Table:
    """The zeros of each layer, and whether its pattern holds."""
    said = {True: "yes", False: "NO", None: NOTHING}
    rows = tuple(
        (
            layer["name"],
            " × ".join(map(str, layer["shape"])),
            layer["asked"] or NOTHING,
            f"{layer['sparsity']:.2%}",
            said[layer["holds"]],
        )
        for layer in count["layers"]
    )
    return Table("", ("layer", "shape", "asked", "zeros", "holds"), rows)
