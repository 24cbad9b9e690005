"""How much data block-wise reconstruction needs: samples × epochs × batch size against the score.

    python benchmarks/reconstruction_data.py                       both embedded models, benchmarks/results/*.json
    python benchmarks/reconstruction_data.py embedded-llava --samples 32,128 --epochs 1,10
    python benchmarks/reconstruction_data.py embedded-llava --smoke -o /tmp/out

Each cell starts from the same model, pruned by Wanda to 2:4 in vision and language, and reconstructs it alone, without
training of the whole. "recovered" is the share of what pruning took from the average score that is back; the error is
‖y − y_dense‖² / ‖y_dense‖² of a block, mean over the blocks, before → after on the samples it learned from. Finished
cells are kept in the JSON file, so that a run that was cut short goes on.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from ressa.checkpoint import Vlm, load
from ressa.commands.inputs import draw_samples, find_data
from ressa.data.batcher import Batcher
from ressa.evaluation import evaluate
from ressa.files import write_json
from ressa.provenance import versions
from ressa.pruning import prune
from ressa.repairing import RepairConfig, repair
from ressa.report import Table, recovered

RESULTS = Path(__file__).parent / "results"
TOWERS = {"vision": "2:4", "language": "2:4"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=["embedded", "embedded-llava"])
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, help="folder of the JSON files")
    parser.add_argument("--samples", default="32,128,512")
    parser.add_argument("--epochs", default="1,3,10")
    parser.add_argument("--batches", default="8,32", help="batch sizes: fewer samples a step are more steps")
    parser.add_argument("--rate", type=float, default=RepairConfig().reconstruct_rate)
    parser.add_argument("--limit", type=int, default=100, help="test images a task looks at")
    parser.add_argument("--tasks", default="vqa,gqa,caption")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--smoke", action="store_true", help="two small cells")
    options = parser.parse_args()
    if options.smoke:
        options.samples, options.epochs, options.batches = "8", "1,2", "8"
        options.limit, options.tasks = 4, "gqa"
    for model in options.models:
        study(model, options)


def study(model: str, options: argparse.Namespace) -> None:
    """Every cell of one model, written as it is finished; prints the table."""
    path = options.output / f"reconstruction_data-{Path(model).name}.json"
    asked = {
        "model": model,
        "limit": options.limit,
        "tasks": options.tasks,
        "seed": options.seed,
        "rate": options.rate,
    }
    found = json.loads(path.read_text()) if path.is_file() else {}
    if found.get("asked") != asked:
        found = {"asked": asked, "cells": []}
    found |= {"versions": versions(), "device": device_name()}
    dense, pruned = load(model, dtype="float32"), load(model, dtype="float32")
    masks = prune_it(pruned, options)
    weights = {name: tensor.clone() for name, tensor in pruned.model.state_dict().items()}
    for name, vlm in (("dense", dense), ("pruned", pruned)):
        if name not in found:
            found[name] = score(vlm, options)
            write_json(path, found)
    most = max(map(int, options.samples.split(",")))
    samples = draw_samples("embedded", "train", most, "mix", options.seed)
    axes = [sorted(map(int, text.split(","))) for text in (options.samples, options.epochs, options.batches)]
    for count, epochs, batch in product(*axes):
        if any(place(cell) == (count, epochs, batch) for cell in found["cells"]):
            continue
        pruned.model.load_state_dict(weights)
        config = RepairConfig(
            method="reconstruct",
            reconstruct_samples=count,
            reconstruct_epochs=epochs,
            reconstruct_batch_size=batch,
            reconstruct_rate=options.rate,
            held_back=0,
            seed=options.seed,
            device=options.device,
        )
        begun = time.perf_counter()
        result = repair(pruned, masks, dense, samples[:count], config)
        cell = {
            "samples": count,
            "epochs": epochs,
            "batch": batch,
            "seconds": round(time.perf_counter() - begun, 1),
            "before": mean(block["before"] for block in result.blocks),
            "after": mean(block["loss"] for block in result.blocks),
            "average": score(pruned, options),
        }
        cell["recovered"] = recovered(found["dense"], found["pruned"], cell["average"])
        found["cells"].append(cell)
        found["cells"].sort(key=place)
        write_json(path, found)
        print(f"{model}: {cell}", flush=True)
    print(f"{model}: dense {found['dense']:.1f}, pruned {found['pruned']:.1f}, {found['device']}")
    print(table(model, found["cells"]).markdown())


def prune_it(vlm: Vlm, options: argparse.Namespace) -> Mapping[str, Tensor]:
    batcher = Batcher(vlm.processor, vlm.model.config, vlm.model.generation_config)
    samples = draw_samples("embedded", "calibration", 8 if options.smoke else 128, "mix", options.seed)
    batches = [batcher.training(samples[start : start + 16]) for start in range(0, len(samples), 16)]
    return prune(vlm.model, batches, TOWERS, seed=options.seed).masks


def score(vlm: Vlm, options: argparse.Namespace) -> float:
    """The average over the tasks."""
    data = find_data("embedded")
    tasks, limit = options.tasks.split(","), options.limit
    return evaluate(vlm, data, tasks, limit=limit, seed=options.seed, pool=min(40, limit))["average"]


def table(model: str, cells: Sequence[Mapping[str, Any]]) -> Table:
    """Per cent recovered, mean error of a block, seconds: samples downwards, epochs to the right."""
    epochs = sorted({cell["epochs"] for cell in cells})
    known = {place(cell): cell for cell in cells}
    rows = []
    for count, batch in sorted({(cell["samples"], cell["batch"]) for cell in cells}):
        found = [known.get((count, each, batch)) for each in epochs]
        rows.append((str(count), str(batch), *("" if cell is None else shown(cell) for cell in found)))
    return Table(
        f"{model}: recovered, error",
        ("samples", "batch", *(f"{each} epochs" for each in epochs)),
        tuple(rows),
    )


def shown(cell: Mapping[str, Any]) -> str:
    share = "" if cell["recovered"] is None else f"{cell['recovered']:.0%}, "
    return f"{share}{cell['after']:.4f}"


def place(cell: Mapping[str, Any]) -> tuple[int, int, int]:
    return cell["samples"], cell["epochs"], cell["batch"]


def device_name() -> str:
    return (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"{torch.get_num_threads()} CPU threads"
    )


if __name__ == "__main__":
    main()
