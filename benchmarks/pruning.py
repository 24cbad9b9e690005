"""How long does `ressa prune` take, by method, pattern and allocation?

    OMP_NUM_THREADS=2 python benchmarks/pruning.py embedded-llava

From loading the dense model to the saved folder: calibration, allocation and counting are in it, only the start of
Python is not. The floor of all that calibrate is one forward of the calibration samples. Processor seconds, of all
threads, stand beside the clock's: where they are many more than threads would explain, others were at work.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ressa.checkpoint import load
from ressa.commands.inputs import draw_samples
from ressa.commands.planning import batch_size_of
from ressa.data import batches
from ressa.embedded.dataset import write_dataset
from ressa.fast_dtype import in_fast_dtype
from ressa.files import write_json
from ressa.provenance import versions
from ressa.recipe import PruneRecipe
from ressa.run import run_recipe

METHODS: dict[str, dict[str, Any]] = {
    "random": {"method": "random"},
    "magnitude": {"method": "magnitude"},
    "wanda": {"method": "wanda"},
    "wanda, atv": {"method": "wanda", "tokens": "atv"},
    "sparsegpt": {"method": "sparsegpt"},
    "dsnot": {"method": "dsnot"},
    "dsnot from magnitude": {"method": "dsnot", "options": {"start": "magnitude"}},
    "dsnot from sparsegpt": {"method": "dsnot", "options": {"start": "sparsegpt"}},
}
PATTERNS = ("0.5", "2:4")
ALLOCATIONS = ("owl", "ecoflap-first", "ecoflap-zeroth", "auto")

Run = Callable[[], object]


def cases(**setting: Any) -> Iterator[tuple[str, str, Run]]:
    """(what, pattern, what to time), the floor first. setting: what all recipes have in common."""

    def pruning(**values: Any) -> Run:
        return partial(run_recipe, PruneRecipe(**setting, **values), force=True)

    yield "one forward", "", partial(forward, PruneRecipe(**setting))
    for pattern in PATTERNS:
        for name, values in METHODS.items():
            yield name, pattern, pruning(pattern=pattern, **values)
    for name in ALLOCATIONS:
        yield f"wanda, {name}", "0.5", pruning(pattern="0.5", allocation=name)


@torch.no_grad()
def forward(recipe: PruneRecipe) -> None:
    """The dense model loaded and run once on the samples that pruning would calibrate on."""
    samples = draw_samples(recipe.calibration, recipe.split, recipe.samples, recipe.mixture, recipe.seed)
    vlm = load(recipe.model)
    with in_fast_dtype(vlm.model, device="cpu"):
        for batch in batches(vlm, samples, batch_size_of(recipe, vlm, samples, vlm.model.device)):
            vlm.model(**{k: v.to(vlm.model.dtype) if v.is_floating_point() else v for k, v in batch.items()})


def measure(run: Run, runs: int) -> dict[str, float]:
    """Median, least and most seconds of some runs, and the median of their processor seconds."""
    seconds, processor = [], []
    for _ in range(runs):
        begun, used = time.perf_counter(), time.process_time()
        run()
        seconds.append(time.perf_counter() - begun)
        processor.append(time.process_time() - used)
    return {
        "seconds": median(seconds),
        "fastest": min(seconds),
        "slowest": max(seconds),
        "processor_seconds": median(processor),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", nargs="?", default="embedded-llava")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default="", help="cases with this in their name")
    parser.add_argument("--output", type=Path, help="JSON (default: benchmarks/results/pruning.json)")
    parser.add_argument(
        "--smoke", action="store_true", help="two samples, one run, to see that everything runs"
    )
    options = parser.parse_args()
    samples, runs = (2, 1) if options.smoke else (options.samples, options.runs)
    setting = {"model": options.model, "samples": samples, "runs": runs, "threads": torch.get_num_threads()}
    print(f"{versions()}\n{setting}\n")
    print(f"{'':24}{'pattern':>8}{'seconds':>9}{'range':>14}{'processor':>11}")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        common = {"model": options.model, "output": f"{folder}/pruned", "samples": samples, "device": "cpu"}
        if options.smoke:
            write_dataset(Path(folder, "scenes"), 0, {"calibration": samples})
            common["calibration"] = f"{folder}/scenes"
        for what, pattern, run in cases(**common):
            if options.only not in what:
                continue
            found = measure(run, runs)
            rows.append({"what": what, "pattern": pattern, **found})
            spread = f"{found['fastest']:.1f}–{found['slowest']:.1f}"
            print(
                f"{what:24}{pattern:>8}{found['seconds']:9.1f}{spread:>14}{found['processor_seconds']:11.1f}",
                flush=True,
            )
    output = options.output or (None if options.smoke else Path(__file__).parent / "results/pruning.json")
    if output:
        write_json(output, {"versions": versions(), **setting, "cases": rows})
        print(f"\nwritten: {output}")


if __name__ == "__main__":
    main()
