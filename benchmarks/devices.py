"""The demo on a machine's GPU and on its own CPU: seconds of every stage, side by side.

    python benchmarks/devices.py                   embedded, benchmarks/results/devices.json
    python benchmarks/devices.py --smoke           seconds, on any machine, which may have no GPU

Blocks of the embedded models are so small that a GPU computes them faster than Python can ask it to; what counts there
is how seldom it is asked. `ressa demo` takes the GPU where there is one, so it must not be slower there.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from ressa.demo import run_demo
from ressa.files import write_json
from ressa.provenance import versions
from ressa.recipe import DemoRecipe

SMOKE: dict[str, Any] = {
    "samples": 4,
    "evaluation_images": 4,
    "evaluation_pool": 4,
    "reconstruction_samples": 8,
    "reconstruction_epochs": 1,
    "repair_samples": 16,
    "repair_batch": 8,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--output", type=Path, help="JSON (default: benchmarks/results/devices.json)")
    parser.add_argument("--smoke", action="store_true", help="a small demo")
    options = parser.parse_args()
    devices = ["cuda", "cpu"] if torch.cuda.is_available() else ["cpu"]
    report: dict[str, Any] = {
        "versions": versions(),
        "cpu_threads": torch.get_num_threads(),
        "model": options.model,
    }
    for device in devices:
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            more = SMOKE if options.smoke else {}
            run_demo(DemoRecipe(model=options.model, output=Path(folder) / "demo", device=device, **more))
            results = json.loads((Path(folder) / "demo" / "results.json").read_text())
            repair = json.loads((Path(folder) / "demo" / "repaired" / "ressa.json").read_text())["spent"]
        report[device] = {
            "wall": round(time.perf_counter() - begun, 1),
            "seconds": results["seconds"],
            "repair": repair,
            "recovered": results["recovered"],
        }
        print(device, report[device], flush=True)
    output = options.output or (None if options.smoke else Path(__file__).parent / "results/devices.json")
    if output:
        write_json(output, report)


if __name__ == "__main__":
    main()
