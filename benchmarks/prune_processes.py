"""What do several processes win? One pruning of LLaVA-1.5-7B's shape by one process, and by two on two GPUs.

    python benchmarks/prune_processes.py             the table, and benchmarks/results/prune_processes.json
    python benchmarks/prune_processes.py --smoke     tiny, on any machine, over gloo

Each process holds the model, runs it on its share of the 128 samples, and solves its share of a block's layers; sums
and results travel over NCCL. The floor of N processes is one's time over N for running the model; what they send for
each block is the sums (SparseGPT: a matrix of in × in for every input) and each layer's mask and weights. The masks
must be those of one process.
"""

import argparse
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from prune_speed import Size, make_batches, make_model, plan_for

from ressa.files import read_json, write_json
from ressa.processes import is_first, leave, meet
from ressa.provenance import versions
from ressa.pruning import prune

CASES = (("wanda", "2:4"), ("sparsegpt", "2:4"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="JSON (default: benchmarks/results/prune_processes.json)")
    parser.add_argument("--processes", default="1,2", help="how many, separated by commas")
    parser.add_argument("--layers", type=int, default=32, help="blocks of the language tower")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, to see that everything runs")
    parser.add_argument("--one-of", type=Path, help=argparse.SUPPRESS)  # this is one of the processes
    options = parser.parse_args()
    if options.one_of is not None:
        measure(options.one_of, options)
    if not options.smoke and not torch.cuda.is_available():
        parser.error("this needs GPUs; --smoke runs a tiny model on the CPU")
    output = options.output or Path(__file__).parent / "results/prune_processes.json"
    report: dict[str, Any] = {"versions": versions(), "runs": {}}
    for number in options.processes.split(","):
        part = output.with_suffix(f".{number}.part")
        launcher = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={number}",
        ]
        more = ["--smoke"] if options.smoke else ["--layers", str(options.layers)]
        subprocess.run([*launcher, __file__, "--one-of", str(part.resolve()), *more], check=True)
        report["runs"][number] = read_json(part)
        part.unlink()
    first = next(iter(report["runs"].values()))
    for number, found in report["runs"].items():
        for name, case in found.items():
            won = {
                what: first[name][what] / max(case[what], 1e-9) for what in ("calibrate", "prune", "seconds")
            }
            case["won"] = {what: round(times, 2) for what, times in won.items()}
            said = ", ".join(f"{what} {case[what]:.1f} s ({times:.2f} x)" for what, times in won.items())
            print(f"{number} processes, {name}: {said}")
    hashes = [{name: case.pop("masks") for name, case in found.items()} for found in report["runs"].values()]
    differing = 0
    for number, found in zip(list(report["runs"])[1:], hashes[1:], strict=True):
        for name, masks in found.items():
            other = [layer for layer, digest in masks.items() if digest != hashes[0][name][layer]]
            report["runs"][number][name]["layers_with_other_masks"] = len(other)
            differing += len(other)
            if other:
                print(f"{number} processes, {name}: {len(other)} of {len(masks)} layers have other masks")
    write_json(output, report)
    if differing:
        sys.exit(1)


def measure(output: Path, options: argparse.Namespace) -> None:
    """What one of the processes does: every case, the first of them once before it is timed."""
    device = torch.device("cpu" if options.smoke else f"cuda:{os.environ['LOCAL_RANK']}")
    meet(device)
    size = Size(layers=options.layers)
    if options.smoke:
        size = Size(layers=2, width=32, samples=8, image_tokens=4, text_tokens=6, batch=2)
    batches = make_batches(size, size.samples, size.batch)
    found = {}
    for warm, (method, pattern) in enumerate((CASES[0], *CASES)):
        model = make_model(size, str(device))
        meet(device)
        result = prune(model, batches, plan_for(model, method, pattern), method=method, device=device)
        masks = {
            name: hashlib.sha256(result.masks.packed(name).numpy().tobytes()).hexdigest()[:16]
            for name in result.masks
        }
        if warm:
            found[f"{method}, {pattern}"] = {"seconds": result.seconds, **result.spent, "masks": masks}
        del model
    if is_first():
        write_json(output, found)
    meet(device)
    leave(0)


if __name__ == "__main__":
    main()
