"""A plan as a figure: how sparse each block is, towers told apart by colour."""

from collections.abc import Mapping, Sequence
from pathlib import Path

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


def plan_blocks(
    layers: Sequence[tuple[str, str, tuple[int, int], float]], blocks: Mapping[str, Sequence[str]]
) -> list[tuple[str, str, list[tuple[float, int]]]]:
    """What `plan_bars` draws. layers: (name, tower, shape, share of zeros). blocks: block → its layers' names."""
    known = {name: (tower, shape[0] * shape[1], share) for name, tower, shape, share in layers}
    found = []
    for block, names in blocks.items():
        members = [known[name] for name in names if name in known]
        if members:
            tower = members[0][0]
            number = block.rpartition(".")[2]
            label = f"{tower} {number}" if number.isdigit() else block.split(".")[-1]
            found.append((label, tower, [(share, size) for _, size, share in members]))
    return found
