"""What each method and each repair costs, and what it brings: one table, and the Pareto figure.

    python benchmarks/cost.py embedded embedded-llava -o runs/cost             # everything
    python benchmarks/cost.py embedded -o runs/cost --only wanda,sparse_lora   # some of it

Every stage is one `ressa prune` or `ressa repair` in a process of its own with one thread. Seconds are the processor's,
of the whole command, so that others on the machine do not count; memory is the process's peak. A repair starts from
Wanda's model and costs what Wanda cost, too. What it brings: the mean over VQA, OK-VQA and GQA of the score in per cent
of the dense model's (`--images` test images), and the share of what Wanda lost. Finished stages are kept as files,
so a run that was cut short goes on. Written are `cost.json`, `cost-MODEL.md` and `cost.png`.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ressa.files import read_json, write_json, write_text
from ressa.report import Table
from ressa.report.pareto import pareto_figure

MODELS = ("embedded", "embedded-llava")
METHODS = ("magnitude", "wanda", "dsnot", "sparsegpt")
START = "wanda"
CALIBRATION = 128
TASKS = ("vqa", "okvqa", "gqa")


def repairs(samples: int) -> dict[str, list[str]]:
    """Name → the options of its `ressa repair`; all but reconstruction see so many samples once, in steps of 32."""
    trained = ["--samples", str(samples), "--batch-size", "32", "--learning-rate", "1e-3"]
    trained += ["--rank-vision", "8", "--rank-language", "16", "--option", "checkpoints=0"]
    blocks = ["--option", f"reconstruct_samples={samples // 4}", "--option", "reconstruct_epochs=2"]
    plain = [*trained, "--no-warm-start"]
    return {
        "reconstruct": [*plain, "--option", "method=reconstruct", *blocks],
        "sparse_lora": plain,
        "lora_remask": [*plain, "--option", "method=lora_remask"],
        "masked_finetune": [*plain, "--option", "method=masked_finetune"],
        "reconstruct + sparse_lora": [*trained, *blocks],
    }


TITLES = {
    "reconstruct": "block-wise reconstruction",
    "sparse_lora": "SparseLoRA + KD, the paper's",
    "lora_remask": "LoRA + KD, masked again",
    "masked_finetune": "masked fine-tuning + KD",
    "reconstruct + sparse_lora": "reconstruction, then SparseLoRA + KD",
    "magnitude": "magnitude",
    "wanda": "Wanda",
    "dsnot": "DSnoT from Wanda",
    "sparsegpt": "SparseGPT",
}


def measured(command: Sequence[str]) -> dict[str, float]:
    """Run `ressa`: its processor seconds, its peak memory in MB. Raises SystemExit where it fails."""
    alone = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(
        [sys.executable, "-m", "ressa", *command],
        env={**os.environ, **alone},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(said.decode(errors="replace"))
    scale = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return {
        "seconds": round(used.ru_utime + used.ru_stime, 1),
        "memory_mb": round(used.ru_maxrss * scale / 1e6),
    }


class Study:
    """The stages of one model, each a file once it is done."""

    def __init__(self, model: str, folder: Path, pattern: str, samples: int, images: int) -> None:
        self.model, self.folder, self.pattern = model, folder, pattern
        self.samples, self.images = samples, images

    def stage(self, name: str, command: Sequence[str] | None, *, keep: bool = False) -> dict[str, Any]:
        """What a stage cost and brought; command: what makes its model, None for the dense one."""
        place = self.folder / "stages" / f"{self.model}-{name.replace(' ', '')}.json"
        output = self.folder / "models" / f"{self.model}-{name.replace(' ', '')}"
        identity = {"command": list(command or ()), "pattern": self.pattern, "images": self.images}
        found = read_json(place)
        if found and found["identity"] == identity and (output.is_dir() or not keep):
            return found
        used = measured([*command, "-o", str(output), "--force"]) if command else {}
        scores = self.folder / "scores.json"
        spec = str(output) if command else self.model
        tasks = ["--tasks", ",".join(TASKS), "--split", "test", "--limit", str(self.images)]
        measured(["evaluate", spec, *tasks, "--json", str(scores)])
        result = read_json(scores)["tasks"]
        found = {"identity": identity, **used, "scores": {task: result[task]["score"] for task in TASKS}}
        write_json(place, found)
        if command and not keep:
            shutil.rmtree(output)
        print(f"{self.model} {name}: {used}", flush=True)
        return found

    def rows(self, only: Sequence[str]) -> list[dict[str, Any]]:
        """All stages that are asked for, with what each brought."""
        dense = self.stage("dense", None)["scores"]

        def brought(found: Mapping[str, Any]) -> float:
            return sum(100 * found["scores"][task] / dense[task] for task in TASKS) / len(TASKS)

        sizes = ["--pattern", self.pattern, "--samples", str(CALIBRATION)]
        prune = {method: ["prune", self.model, "--method", method, *sizes] for method in METHODS}
        start = self.stage(START, prune[START], keep=True)
        lost = 100 - brought(start)
        rows = []
        for name in METHODS:
            if name in only:
                found = self.stage(name, prune[name], keep=name == START)
                samples = 0 if name == "magnitude" else CALIBRATION
                rows.append({"name": name, "kind": "method", **_cost(found), "samples": samples})
                rows[-1] |= {"score": brought(found), "recovered": None}
        pruned = str(self.folder / "models" / f"{self.model}-{START}")
        for name, options in repairs(self.samples).items():
            if name in only:
                found = self.stage(name, ["repair", pruned, *options])
                rows.append({"name": name, "kind": "repair", **_cost(found, start), "samples": self.samples})
                if name == "reconstruct":
                    rows[-1]["samples"] = self.samples // 4
                share = (brought(found) - brought(start)) / lost if lost > 0 else None
                rows[-1] |= {"score": brought(found), "recovered": share}
        return rows


def _cost(found: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> dict[str, float]:
    """Seconds with those of the stage before, and the larger peak of both."""
    before = before or {"seconds": 0.0, "memory_mb": 0}
    return {
        "seconds": round(found["seconds"] + before["seconds"], 1),
        "memory_mb": max(found["memory_mb"], before["memory_mb"]),
    }


def table(model: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """One row a method or repair."""
    lines = []
    for row in rows:
        recovered = "" if row["recovered"] is None else f"{row['recovered']:.0%}"
        title = TITLES[row["name"]] if row["kind"] == "method" else f"Wanda, {TITLES[row['name']]}"
        cost = (f"{row['seconds']:.0f}", f"{row['memory_mb'] / 1000:.2f}", str(row["samples"]))
        lines.append((title, *cost, f"{row['score']:.1f}", recovered))
    return Table(model, (model, "processor s", "peak GB", "samples", "% of dense", "recovered"), tuple(lines))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--pattern", default="2:4")
    parser.add_argument("--samples", type=int, default=640, help="that a repair trains on")
    parser.add_argument("--images", type=int, default=40, help="that every model is scored on")
    parser.add_argument("--only", default=",".join((*METHODS, *repairs(0))), help="methods and repairs")
    given = parser.parse_args()
    found: dict[str, Any] = {}
    for model in given.models:
        study = Study(model, given.output, given.pattern, given.samples, given.images)
        found[model] = study.rows(given.only.split(","))
        write_text(given.output / f"cost-{model}.md", table(model, found[model]).markdown())
    write_json(
        given.output / "cost.json", {"pattern": given.pattern, "images": given.images, "models": found}
    )
    points = {
        model: [(row["seconds"], row["score"], TITLES[row["name"]], row["kind"]) for row in rows]
        for model, rows in found.items()
    }
    pareto_figure(points, given.output / "cost.png", f"{given.pattern}, one core")


if __name__ == "__main__":
    main()
