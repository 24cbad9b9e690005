"""`ressa inspect`: the zeros of a checkpoint, counted in its files."""

from dataclasses import asdict
from pathlib import Path

from ressa.checkpoint import find
from ressa.commands.outcome import Outcome
from ressa.report import layers_table, towers_table

SHOWN = 8  # names of layers in a sentence


def inspect_model(model: str, *, layers: bool = False, figure: Path | None = None) -> Outcome:
    """Count a folder's zeros by tower and, on request, by layer; check each pattern against the weights.

    figure: where to draw how sparse each block is, as PNG.
    """
    find(model)  # what is not there is told before PyTorch is imported
    from ressa.checkpoint import count_sparsity

    count = count_sparsity(model)
    details = [asdict(layer) for layer in count.layers]
    asked = any(layer.holds is not None for layer in count.layers)
    data = {
        "model": model,
        "towers": count.towers,
        "holds": count.holds if asked else None,
        "layers": details,
    }
    tables = [towers_table(data, model), *([layers_table(data)] if layers else [])]
    if figure is not None:
        from ressa.report.plans import plan_bars, plan_blocks

        plan_bars(plan_blocks(details), figure, f"{model}: zeros of each block")
    if not asked:
        return Outcome(data, tables, ["No pattern was asked of this model."])
    broken = [layer.name for layer in count.layers if layer.holds is False]
    if broken:
        which = ", ".join(broken[:SHOWN]) + (f" and {len(broken) - SHOWN} more" * (len(broken) > SHOWN))
        count_of = "1 layer does" if len(broken) == 1 else f"{len(broken)} layers do"
        return Outcome(
            data, tables, wrong=f"{count_of} not keep to the pattern asked for ({which}): prune again."
        )
    return Outcome(data, tables, ["Every layer keeps to its pattern."])
