"""Where sparsity goes, compared at one budget: pruned by Wanda, distance to the dense model and task scores.

    python benchmarks/allocation.py embedded-llava --sparsity 0.5,0.6,0.7 --seeds 0,1,2 -o allocation.json

The distance is KL(dense ‖ pruned) in nats a token on the `val` split, which no allocation has seen. A seed draws
the calibration samples of both the allocation and Wanda. Every point is kept as soon as it is measured, so
that a run that was cut short goes on.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from ressa.allocation import Allocation, allocate, batching, per_tower
from ressa.allocation.outputs import Outputs
from ressa.anatomy import find_anatomy
from ressa.checkpoint import Vlm, load
from ressa.commands.inputs import draw_samples, find_data
from ressa.data import Batcher
from ressa.evaluation import evaluate
from ressa.fast_dtype import in_fast_dtype
from ressa.files import write_json
from ressa.pruning import prune
from ressa.sparsity import Unstructured
from ressa.sweep import relative

TOWERS = ("vision", "language")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="embedded-llava")
    parser.add_argument("--sparsity", default="0.5,0.6,0.7")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--allocations", default="uniform,owl,ecoflap-first,ecoflap-zeroth,auto")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--held", type=int, default=128)
    parser.add_argument("--tasks", default="vqa,okvqa,gqa,caption")
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("-o", "--output", type=Path, default=Path("allocation.json"))
    arguments = parser.parse_args()
    vlm = load(arguments.model)
    with in_fast_dtype(vlm.model, device=arguments.device):
        compare(vlm, arguments)


def compare(vlm: Vlm, arguments: argparse.Namespace) -> None:
    """Measure every point that is not in the output file yet."""
    points: list[dict[str, Any]] = []
    if arguments.output.is_file():
        points = json.loads(arguments.output.read_text(encoding="utf-8"))["points"]
    model = vlm.model.to(arguments.device).eval()
    anatomy = find_anatomy(model)
    modules: dict[str, Any] = dict(model.named_modules())
    batcher = Batcher(vlm.processor, model.config)
    dense = {name: modules[name].weight.detach().clone() for name in anatomy.linears()}
    held = draw_samples("embedded", "val", arguments.held, "mix", 0)
    outputs = Outputs(model, [batcher.training(held[i : i + 32]) for i in range(0, len(held), 32)])
    outputs.remember()
    data = find_data("embedded")

    def score() -> dict[str, Any]:
        result = evaluate(
            vlm, data, arguments.tasks.split(","), split="val", limit=arguments.limit, batch_size=64
        )
        scores = {task: round(found["score"], 2) for task, found in result["tasks"].items()}
        return {"scores": scores}

    def measure(name: str, sparsity: float, seed: int) -> dict[str, Any]:
        samples = draw_samples("embedded", "calibration", arguments.samples, "mix", seed)
        batches = [batcher.training(samples[i : i + 32]) for i in range(0, len(samples), 32)]
        if name == "uniform":
            pattern = Unstructured(sparsity)
            made = Allocation(name, per_tower(anatomy, model, dict.fromkeys(TOWERS, pattern)), 0.0)
        else:
            number, size = batching(name, len(samples), 32)
            given = [batcher.training(samples[i : i + size]) for i in range(0, number, size)]
            made = allocate(name, model, given, dict.fromkeys(TOWERS, sparsity), anatomy=anatomy, seed=seed)
        try:
            prune(model, batches, plan=made.plan, anatomy=anatomy, seed=seed)
            zeros = {
                tower: sum(int((modules[n].weight == 0).sum()) for n in anatomy.linears(tower))
                / sum(modules[n].weight.numel() for n in anatomy.linears(tower))
                for tower in TOWERS
            }
            return {
                "sparsity_by_tower": zeros,
                "kl": outputs.mean_distance(),
                **score(),
                "seconds": round(made.seconds, 1),
                "plan": made.plan.to_dict(),
            }
        finally:
            with torch.no_grad():
                for layer, weight in dense.items():
                    modules[layer].weight.copy_(weight)

    if not points:
        points.append({"allocation": "dense", "sparsity": 0.0, "seed": 0, "kl": 0.0, **score()})
    for sparsity in map(float, arguments.sparsity.split(",")):
        for seed in map(int, arguments.seeds.split(",")):
            for name in arguments.allocations.split(","):
                key = {"allocation": name, "sparsity": sparsity, "seed": seed}
                if any(key.items() <= point.items() for point in points):
                    continue
                started = time.perf_counter()
                point = {**key, **measure(name, sparsity, seed)}
                point["relative"] = round(relative(point["scores"], points[0]["scores"]), 2)
                points.append(point)
                write_json(
                    arguments.output, {"arguments": vars(arguments) | {"output": None}, "points": points}
                )
                print(
                    f"{sparsity} seed {seed} {name:15s} KL {point['kl']:.4f} {point['relative']:.1f} % of dense "
                    f"allocated in {point['seconds']:.0f} s ({time.perf_counter() - started:.0f} s in all)",
                    flush=True,
                )


if __name__ == "__main__":
    main()
