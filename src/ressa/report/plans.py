"""A plan as a figure: how sparse each block is, towers told apart by colour."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ressa.report.figures import COLOURS, _save

TOWER_COLOURS = {"vision": COLOURS[1], "connector": COLOURS[3], "language": COLOURS[2]}


def plan_bars(
    blocks: Sequence[tuple[str, str, Sequence[tuple[float, int]]]],
    path: str | Path,
    title: str = "",
) -> None:
    """Write a bar a block, in the order given, and a mark for each of its layers, as PNG.

    blocks: (name, tower, layers), each layer as (share of zeros, weights). The dashed line is the share of
    zeros over all layers.
    """
    figure = Figure(figsize=(max(6.4, 0.34 * len(blocks) + 2), 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    shares = [sum(s * n for s, n in layers) / sum(n for _, n in layers) for _, _, layers in blocks]
    towers = list(dict.fromkeys(tower for _, tower, _ in blocks))
    for tower in towers:
        places = [i for i, (_, other, _) in enumerate(blocks) if other == tower]
        colour = TOWER_COLOURS.get(tower, COLOURS[0])
        axes.bar(places, [100 * shares[i] for i in places], 0.8, color=colour, alpha=0.85, label=tower)
    marks = [(place, 100 * share) for place, (_, _, layers) in enumerate(blocks) for share, _ in layers]
    axes.plot([x for x, _ in marks], [y for _, y in marks], "_", color="black", markersize=9, alpha=0.6)
    weights = sum(n for _, _, layers in blocks for _, n in layers)
    whole = sum(s * n for _, _, layers in blocks for s, n in layers) / weights
    axes.axhline(100 * whole, color="#555555", linestyle="--", linewidth=1, label=f"all: {whole:.1%}")
    axes.set_xticks(range(len(blocks)), [name for name, _, _ in blocks], rotation=90, fontsize=7)
    axes.set_ylim(0, 100)
    axes.set_ylabel("zeros, % (bar: block, mark: layer)")
    axes.set_title(title, fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(towers) + 1, fontsize=9, frameon=False)
    _save(figure, path)


def plan_blocks(layers: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, list[tuple[float, int]]]]:
    """What `plan_bars` draws. layers: `name`, `tower`, `shape` and `sparsity` of each, in order. A block is what
    shares a name up to its first number (`encoder.block.3.layer.0.…` → `encoder 3`), else a module."""
    blocks: dict[tuple[str, str], list[tuple[float, int]]] = {}
    labels: dict[tuple[str, str], str] = {}
    for layer in layers:
        parts = layer["name"].split(".")
        number = next((i for i, part in enumerate(parts) if part.isdigit()), None)
        end = len(parts) - 1 if number is None else number + 1
        key = (".".join(parts[:end]), layer["tower"])
        holder = parts[max(0, end - 3)] if number is not None else parts[max(0, end - 1)]
        labels[key] = f"{holder} {parts[number]}" if number is not None else holder
        size = layer["shape"][0] * layer["shape"][1]
        blocks.setdefault(key, []).append((layer["sparsity"], size))
    return [(labels[key], key[1], members) for key, members in blocks.items()]
