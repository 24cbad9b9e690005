"""What pruning does to seeing, and whether repair brings it back: models × methods × patterns × seeds.

    python benchmarks/seeing.py embedded embedded-llava -o runs/seeing                     # all 48 cells
    python benchmarks/seeing.py embedded -o runs/seeing --methods wanda --patterns 2:4     # some of them

Each cell prunes vision and language alike, repairs, and asks the pruned and the repaired model what `ressa report` asks:
where its attention goes, what hiding parts of the picture does, what it says with another picture. The dense model's
answers are the words all maps are of. A seed draws calibration and training samples; the questions are the same for all.

The repair is the first and larger part of `ressa repair`, block-wise reconstruction, at a size that two shared cores can
take (`--samples`, `--epochs`); `--repair default` takes `ressa repair` as it is. Every finished cell is a
file, so a run that was cut short goes on, and a wider one adds to it. The tables go to `seeing.md`, all numbers to
`seeing.csv`.
"""

import argparse
import shutil
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from ressa.recipe import PruneRecipe, RepairRecipe

MODELS = ("embedded", "embedded-llava")
METHODS = ("wanda", "sparsegpt")
PATTERNS = ("2:4", "0.7", "0.6", "0.5")
SEEDS = (0, 1, 2)


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


def prune_recipe(cell: Cell, folder: Path) -> PruneRecipe:
    return PruneRecipe(
        model=cell.model,
        output=folder / "models" / f"{cell.name}-pruned",
        method=cell.method,
        pattern=cell.pattern,
        seed=cell.seed,
    )


def repair_recipe(cell: Cell, folder: Path, repair: str, samples: int, epochs: int) -> RepairRecipe:
    keys: dict[str, Any] = {}
    if repair == "reconstruct":
        options = {"method": "reconstruct", "reconstruct_samples": samples, "reconstruct_epochs": epochs}
        keys = {"warm_start": False, "samples": samples + 16, "options": {**options, "held_back": 16}}
    return RepairRecipe(
        model=str(prune_recipe(cell, folder).output),
        dense=cell.model,
        output=folder / "models" / f"{cell.name}-repaired",
        seed=cell.seed,
        **keys,
    )
