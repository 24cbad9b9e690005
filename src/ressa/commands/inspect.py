"""`ressa inspect`: the zeros of a checkpoint, counted in its files."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from ressa.checkpoint import find
from ressa.commands.outcome import Outcome
from ressa.files import check_writable
from ressa.report import layers_table, towers_table

SHOWN = 8  # names of layers in a sentence
ENOUGH = 0.9  # of a tower's weights: what is left beside are norms, routers, positions


def inspect_model(model: str, *, layers: bool = False, figure: Path | None = None) -> Outcome:
    """Count a folder's zeros by tower and, on request, by layer; check each pattern against the weights.

    figure: where to draw how sparse each block is, as PNG.
    """
    find(model)  # what is not there is told before PyTorch is imported
    if figure is not None:
        check_writable(figure)
    from ressa.checkpoint import count_sparsity

    count = count_sparsity(model)
    details = [asdict(layer) for layer in count.layers]
    asked = any(layer.holds is not None for layer in count.layers)
    data = {
        "model": model,
        "towers": count.towers,
        "prunable": count.prunable,
        "outside": count.outside,
        "holds": count.holds if asked else None,
        "layers": details,
    }
    tables = [towers_table(data, model), *([layers_table(data)] if layers else [])]
    if figure is not None:
        from ressa.report.plans import plan_bars, plan_blocks

        plan_bars(plan_blocks(details), figure, f"{model}: zeros of each block")
    lines = _left_dense(count.prunable, count.outside)
    if not asked:
        return Outcome(data, tables, [*lines, "No pattern was asked of this model."])
    broken = [layer.name for layer in count.layers if layer.holds is False]
    if broken:
        which = ", ".join(broken[:SHOWN]) + (f" and {len(broken) - SHOWN} more" * (len(broken) > SHOWN))
        count_of = "1 layer does" if len(broken) == 1 else f"{len(broken)} layers do"
        return Outcome(
            data, tables, lines, wrong=f"{count_of} not keep to the pattern asked for ({which}): prune again."
        )
    return Outcome(data, tables, [*lines, "Every layer keeps to its pattern."])


def _left_dense(prunable: Mapping[str, float], outside: Sequence[str]) -> list[str]:
    """What of a model is never pruned, as sentences: nothing is passed over in silence."""
    lines = [
        f"Of the {tower} tower's blocks {1 - share:.1%} of the weights are in no linear layer that can be pruned."
        for tower, share in prunable.items()
        if share < ENOUGH
    ]
    if outside:
        names = ", ".join(outside[:SHOWN]) + f" and {len(outside) - SHOWN} more" * (len(outside) > SHOWN)
        lines.append(f"Never pruned, for it is not on the way from picture to words: {names}.")
    return lines
