"""Prune a dual encoder to 2:4, repair it, and score the three: retrieval both ways, and zero-shot classes.

    python scripts/train_dual_encoder.py --output runs/clip
    python benchmarks/dual_encoders.py runs/clip -o runs/dual

Retrieval chooses among 200 scenes and their 1,000 captions; zero-shot among the names of what is shown, on scenes that
show one kind of thing. Each seed draws its own calibration and training samples. What is finished is not done again.
`--variant name:key=value,…` adds a repair with other options of `RepairConfig` (such as `task:kd_weight=0`).
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from PIL import Image

from ressa.commands.evaluate import run_evaluate
from ressa.commands.prune import run_prune
from ressa.commands.repair import run_repair
from ressa.embedded.scenes import render, sample_scene
from ressa.files import fresh_directory, write_json
from ressa.provenance import versions
from ressa.recipe import EvaluateRecipe, PruneRecipe, RepairRecipe
from ressa.report.table import recovered

SHOWN = ("TR@1", "TR@5", "IR@1", "IR@5", "top-1", "top-5")


def class_folder(place: Path, count: int) -> Path:
    """Scenes of the test split that show one kind of thing, in a folder for each."""
    if place.is_dir():
        return place
    with fresh_directory(place) as work:
        drawn = index = 0
        while drawn < count:
            scene = sample_scene("test", index)
            names = {placed.thing.name for placed in scene.objects}
            if len(names) == 1:
                folder = work / "test" / names.pop()
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(render(scene)).save(folder / f"{index}.png")
                drawn += 1
            index += 1
    return place


def scores(model: str, place: Path, classes: Path, pool: int) -> dict[str, float]:
    """Retrieval among the embedded scenes, and zero-shot classes."""
    if place.is_file():
        return json.loads(place.read_text())
    common: dict[str, Any] = {"model": model, "device": "cpu", "batch_size": 50}
    found = run_evaluate(EvaluateRecipe(tasks=("retrieval",), pool=pool, split="test", **common)).data
    retrieval = found["tasks"]["retrieval"]
    asked = EvaluateRecipe(
        tasks=("zeroshot",), data=str(classes), split="test", class_prompt="an image of a {}", **common
    )
    named = run_evaluate(asked).data["tasks"]["zeroshot"]
    result = {key: retrieval[key] for key in SHOWN if key in retrieval}
    result |= {"top-1": named["score"], "top-5": named["top-5"]}
    write_json(place, result)
    return result


def table(found: Mapping[str, list[dict[str, float]]], variants: list[str]) -> str:
    """Markdown: means over seeds, and what share of the loss each seed's repair brought back."""
    columns = ["dense", "pruned", *variants]
    lines = ["| | " + " | ".join([*columns, "recovered"]) + " |", "|---" * (len(columns) + 2) + "|"]
    for key in SHOWN:
        cells = [f"{mean(each[key] for each in found[name]):.1f}" for name in columns]
        shares = [
            recovered(dense[key], pruned[key], repaired[key])
            for dense, pruned, repaired in zip(
                found["dense"], found["pruned"], found[variants[0]], strict=True
            )
        ]
        cells.append(", ".join("–" if share is None else f"{share:.0%}" for share in shares))
        lines.append(f"| {key} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--pattern", default="2:4")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--calibration", type=int, default=128)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--reconstruct", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=5, help="of the reconstruction")
    parser.add_argument("--pictures", type=int, default=300, help="of zero-shot classes")
    parser.add_argument("--variant", action="append", default=[])
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    classes = class_folder(given.output / "classes", given.pictures)
    extra = {
        name: dict(each.split("=") for each in rest.split(","))
        for name, _, rest in (variant.partition(":") for variant in given.variant)
    }
    variants: dict[str, dict[str, Any]] = {"repaired": {}} | {
        name: {key: json.loads(value) for key, value in options.items()} for name, options in extra.items()
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ("dense", "pruned", *variants)}
    dense = scores(given.model, given.output / "dense.json", classes, 200)
    for seed in map(int, given.seeds.split(",")):
        home = given.output / f"{given.pattern.replace(':', '-')}-seed{seed}"
        home.mkdir(exist_ok=True)
        pruned = home / "pruned"
        run_prune(
            PruneRecipe(
                model=given.model,
                output=pruned,
                pattern=given.pattern,
                samples=given.calibration,
                seed=seed,
                device="cpu",
            )
        )
        found["dense"].append(dense)
        found["pruned"].append(scores(str(pruned), home / "pruned.json", classes, 200))
        for name, own in variants.items():
            options = {"reconstruct_samples": given.reconstruct, "reconstruct_epochs": given.epochs}
            fields = {"batch_size": given.batch, "learning_rate": given.rate, "samples": given.samples}
            fields |= {key: value for key, value in own.items() if key in RepairRecipe.model_fields}
            options |= {key: value for key, value in own.items() if key not in RepairRecipe.model_fields}
            run_repair(
                RepairRecipe(
                    model=str(pruned), output=home / name, seed=seed, device="cpu", options=options, **fields
                )
            )
            found[name].append(scores(str(home / name), home / f"{name}.json", classes, 200))
        print(table(found, list(variants)), flush=True)
    made = {"options": vars(given) | {"output": str(given.output)}, "versions": versions()}
    write_json(given.output / "scores.json", {**made, **found})


if __name__ == "__main__":
    main()
