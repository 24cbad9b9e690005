"""What `ressa demo` is told, and the recipes of its stages."""

from pathlib import Path
from typing import Literal

from ressa.embedded import EMBEDDED
from ressa.recipe.data import DataRecipe
from ressa.recipe.evaluate import EvaluateRecipe
from ressa.recipe.fields import (
    Folder,
    Method,
    ModelName,
    Natural,
    OutputFolder,
    Pattern,
    Pool,
    Positive,
    PositiveFloat,
    Share,
)
from ressa.recipe.prune import PruneRecipe
from ressa.recipe.repair import RepairRecipe


class DemoRecipe(DataRecipe):
    """The whole story on an embedded model: the sizes that keep it under eight minutes on two cores."""

    command: Literal["demo"] = "demo"
    model: ModelName = "embedded"
    """An embedded model, or any other with a dataset folder of its own."""
    output: OutputFolder = Path("runs/demo")
    """The folder to write."""
    data: Folder = EMBEDDED
    """The dataset folder, or `embedded`."""
    method: Method = "wanda"
    pattern: Pattern = "2:4"
    """N:M, or the share of zeros, in vision and language."""
    samples: Positive = 128
    """Calibration samples."""
    evaluation_images: Positive = 200
    """How many images each task looks at."""
    evaluation_pool: Pool = 40
    evaluation_batch: Positive = 64
    """How many samples run at a time."""
    reconstruction_samples: Positive = 512
    """How many of the training samples each block is reconstructed on."""
    reconstruction_epochs: Positive = 2
    """How often it sees each."""
    repair_samples: Positive = 3_200
    """Training samples of the repair."""
    repair_batch: Positive = 32
    """How many make a step."""
    repair_rate: PositiveFloat = 1e-3
    """The learning rate at the start of its cosine."""
    rank_vision: Natural = 8
    """LoRA's rank in the vision tower."""
    rank_connector: Natural = 2
    """LoRA's rank in the connector."""
    rank_language: Natural = 16
    """LoRA's rank in the language tower."""
    kd_weight: Share = 0.1
    """The weight of the KL to the dense model."""

    @property
    def prune(self) -> PruneRecipe:
        """Vision and language pruned alike, the connector dense."""
        return PruneRecipe(
            model=self.model,
            output=self.output / "pruned",
            method=self.method,
            pattern=self.pattern,
            calibration=self.data,
            samples=self.samples,
            **self.common(),
        )

    @property
    def repair(self) -> RepairRecipe:
        """Blocks reconstructed, then SparseLoRA, on the pruned folder; the dense one is the teacher of both."""
        return RepairRecipe(
            model=str(self.output / "pruned"),
            dense=self.model,
            output=self.output / "repaired",
            data=self.data,
            samples=self.repair_samples,
            batch_size=self.repair_batch,
            learning_rate=self.repair_rate,
            rank_vision=self.rank_vision,
            rank_connector=self.rank_connector,
            rank_language=self.rank_language,
            kd_weight=self.kd_weight,
            options={
                "reconstruct_samples": self.reconstruction_samples,
                "reconstruct_epochs": self.reconstruction_epochs,
            },
            **self.common(),
        )

    def evaluate(self, stage: str) -> EvaluateRecipe:
        """The same questions for every stage: `dense`, `pruned` or `repaired`."""
        return EvaluateRecipe(
            model=str(self.output / stage),
            output=self.output / "scores" / f"{stage}.json",
            data=self.data,
            limit=self.evaluation_images,
            pool=self.evaluation_pool,
            batch_size=self.evaluation_batch,
            **self.common(),
        )
