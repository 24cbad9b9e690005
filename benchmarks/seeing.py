"""What pruning does to seeing, and whether repair brings it back: models × methods × patterns × seeds.

    python benchmarks/seeing.py embedded embedded-llava -o runs/seeing                     # all 48 cells
    python benchmarks/seeing.py embedded -o runs/seeing --methods wanda --patterns 2:4     # some of them

Each cell prunes vision and language alike, repairs, and asks the pruned and the repaired model what `ressa report`
asks: where its attention goes, what hiding parts of the picture does, what it says with another picture. The dense
model's answers are the words that all maps are of. A seed draws calibration and training samples; the questions are the
same for all.

The repair is `ressa repair`'s first part, block-wise reconstruction, at a size that one shared core can take
(`--samples`, `--epochs`); `--repair default` takes `ressa repair` as it is. Every finished cell is a file, so a run
that was cut short goes on, and a wider one adds to it. The tables go to `seeing.md`, all numbers to `seeing.csv`.
"""

import argparse
import csv
import io
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ressa.files import read_json, write_json, write_text
from ressa.recipe import PruneRecipe, RepairRecipe
from ressa.report import Table

MODELS = ("embedded", "embedded-llava")
METHODS = ("wanda", "sparsegpt")
PATTERNS = ("2:4", "0.7", "0.6", "0.5")
SEEDS = (0, 1, 2)
STAGES = ("pruned", "repaired")
NUMBERS = {
    "VQA": "score",
    "VQA, other picture": "swapped",
    "answers as dense, %": "same_answers",
    "attention r": "attention.pearson",
    "attention r, same answer": "attention.pearson_same",
    "attention on what is named, %": "attention.mass",
    "occlusion r": "occlusion.pearson",
    "occlusion r, same answer": "occlusion.pearson_same",
    "occlusion on what is named, %": "occlusion.mass",
    "occlusion's largest cell there, %": "occlusion.hit",
}
"""Title → where the number stands in what is kept of a model."""
SHARES = ("same_answers", "attention.mass", "occlusion.mass", "occlusion.hit")


@dataclass(frozen=True)
class Cell:
    """One pruning and its repair."""

    model: str
    method: str
    pattern: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.model}-{self.method}-{self.pattern.replace(':', '_')}-{self.seed}"


@dataclass
class Study:
    """What all cells share: sizes, and where everything is kept."""

    folder: Path
    repair: str
    samples: int
    epochs: int
    looks: int
    images: int
    device: str
    dense: dict[str, dict[str, Any]] = field(default_factory=dict)

    def identity(self, cell: Cell | None = None) -> dict[str, Any]:
        asked = {"looks": self.looks, "images": self.images}
        if cell is None:
            return asked
        return asked | {
            "prune": self.prune(cell).identity(),
            "repair": self.fix(cell).identity() | {"model": None},
        }

    def prune(self, cell: Cell) -> PruneRecipe:
        return PruneRecipe(
            model=cell.model,
            output=self.folder / "models" / f"{cell.name}-pruned",
            method=cell.method,
            pattern=cell.pattern,
            seed=cell.seed,
            device=self.device,
        )

    def fix(self, cell: Cell) -> RepairRecipe:
        keys: dict[str, Any] = {}
        if self.repair == "reconstruct":
            sizes = {"reconstruct_samples": self.samples, "reconstruct_epochs": self.epochs, "held_back": 16}
            keys = {"warm_start": False, "samples": self.samples + 16}
            keys["options"] = {"method": "reconstruct", **sizes}
        return RepairRecipe(
            model=str(self.prune(cell).output),
            dense=cell.model,
            output=self.folder / "models" / f"{cell.name}-repaired",
            seed=cell.seed,
            device=self.device,
            **keys,
        )

    def place(self, name: str) -> Path:
        return self.folder / "cells" / f"{name}.json"

    def read(self, cell: Cell) -> dict[str, Any] | None:
        """A finished cell of these settings."""
        found = read_json(self.place(cell.name))
        return found if found and found["identity"] == self.identity(cell) else None


def ask(study: Study, name: str, reference: Any) -> tuple[dict[str, Any], Any]:
    """What a model says and where it looks: numbers, and its looks."""
    from ressa.checkpoint import load
    from ressa.commands.inputs import find_data
    from ressa.device import find_device
    from ressa.evaluation import draw, score
    from ressa.seeing import choose, compare_looks, find_places, look, named_places, swapped

    data = find_data("embedded")
    vqa = draw(data, ("vqa",), split="test", limit=study.images)
    both = draw(data, ("vqa", "gqa"), split="test", limit=2 * study.looks)
    asked = [each for samples in both.samples.values() for each in samples]
    places = find_places(data, asked)
    questions = choose(asked, places, study.looks)
    vlm = load(name, dtype="float32", device=find_device(study.device))
    seen = look(vlm, questions, None if reference is None else reference.words)
    first = seen if reference is None else reference
    found = compare_looks(first, seen, [named_places(each, places) for each in questions])
    found["score"] = score(vlm, vqa)["tasks"]["vqa"]["score"]
    found["swapped"] = score(vlm, swapped(vqa))["tasks"]["vqa"]["score"]
    return found, seen


def dense_of(study: Study, model: str) -> Any:
    """The dense model's looks; measured once."""
    from ressa.seeing import Looks

    if model not in study.dense:
        place = study.place(f"{model}-dense")
        kept = read_json(place)
        if not kept or kept["identity"] != study.identity():
            found, seen = ask(study, model, None)
            kept = {"identity": study.identity(), "dense": found, "looks": seen.to_dict()}
            write_json(place, kept)
        study.dense[model] = kept
    return Looks.from_dict(study.dense[model]["looks"])


def run(study: Study, cell: Cell) -> dict[str, Any]:
    """Make a cell's two models, ask both, note the numbers, and drop the models."""
    from ressa.commands.prune import run_prune
    from ressa.commands.repair import run_repair

    started = time.perf_counter()
    reference = dense_of(study, cell.model)
    prune, fix = study.prune(cell), study.fix(cell)
    run_prune(prune)
    run_repair(fix)
    point: dict[str, Any] = {"identity": study.identity(cell)}
    for stage, recipe in zip(STAGES, (prune, fix), strict=True):
        point[stage] = ask(study, str(recipe.output), reference)[0]
    point["seconds"] = round(time.perf_counter() - started, 1)
    write_json(study.place(cell.name), point)
    shutil.rmtree(prune.output)
    shutil.rmtree(fix.output)
    return point


def number(found: Mapping[str, Any], key: str) -> float | None:
    value: Any = found
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return 100 * value if value is not None and key in SHARES else value


def spread(values: Sequence[float | None]) -> str:
    """Mean ± standard deviation over seeds."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    digits = 1 if max(map(abs, known)) > 1.5 else 2
    deviation = f" ± {stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{mean(known):.{digits}f}{deviation}"


def table(study: Study, cells: Sequence[Cell], model: str) -> Table | None:
    """A row a method, pattern and stage, a column a number; mean ± standard deviation over the seeds there are."""
    kept = read_json(study.place(f"{model}-dense"))
    if not kept:
        return None
    rows = [("dense", "", *(spread([number(kept["dense"], key)]) for key in NUMBERS.values()))]
    for method, pattern in dict.fromkeys((cell.method, cell.pattern) for cell in cells):
        same = [each for each in cells if (each.model, each.method, each.pattern) == (model, method, pattern)]
        points = [point for each in same if (point := study.read(each))]
        for stage in STAGES if points else ():
            numbers = (spread([number(point[stage], key) for point in points]) for key in NUMBERS.values())
            rows.append((f"{method} {pattern}, {stage}", str(len(points)), *numbers))
    return Table(model, (model, "seeds", *NUMBERS), tuple(rows))


def write(study: Study, cells: Sequence[Cell]) -> None:
    """`seeing.md`, a table a model, and `seeing.csv`, a line a cell and stage."""
    tables = [found for model in MODELS if (found := table(study, cells, model))]
    write_text(study.folder / "seeing.md", "\n".join(each.markdown() for each in tables))
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["model", "method", "pattern", "seed", "stage", *NUMBERS.values()])
    for cell in cells:
        point = study.read(cell)
        for stage in STAGES if point else ():
            found = [number(point[stage], key) for key in NUMBERS.values()]
            shown = ["" if value is None else f"{value:.4g}" for value in found]
            lines.writerow([cell.model, cell.method, cell.pattern, cell.seed, stage, *shown])
    write_text(study.folder / "seeing.csv", text.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--patterns", default=",".join(PATTERNS))
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    parser.add_argument("--repair", choices=("reconstruct", "default"), default="reconstruct")
    parser.add_argument("--samples", type=int, default=128, help="each block is reconstructed on")
    parser.add_argument("--epochs", type=int, default=2, help="how often it sees each")
    parser.add_argument("--looks", type=int, default=24, help="questions that maps are made of")
    parser.add_argument("--images", type=int, default=20, help="that VQA is scored on, and swapped among")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    study = Study(
        given.output, given.repair, given.samples, given.epochs, given.looks, given.images, given.device
    )
    cells = [
        Cell(model, method, pattern, int(seed))
        for pattern, method, model, seed in product(
            given.patterns.split(","), given.methods.split(","), given.models, given.seeds.split(",")
        )
    ]
    for done, cell in enumerate(cells, start=1):
        point = study.read(cell) or run(study, cell)
        write(study, cells)
        print(f"{done}/{len(cells)} {cell.name}: {point['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
