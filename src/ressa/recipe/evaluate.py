"""What `ressa evaluate` is told."""

from pathlib import Path
from typing import Any, Literal

from ressa.embedded import EMBEDDED
from ressa.recipe.fields import (
    BatchSize,
    Dtype,
    Folder,
    InputPath,
    Model,
    OutputFile,
    Pool,
    Positive,
    Tasks,
    TestSplit,
)
from ressa.recipe.harness import HarnessRecipe
from ressa.task_names import TASKS


class EvaluateRecipe(HarnessRecipe):
    """Score a model on the tasks of a dataset folder."""

    command: Literal["evaluate"] = "evaluate"
    model: Model
    output: OutputFile | None = None
    """The JSON file to write the scores to."""
    predictions: OutputFile | None = None
    """The file to write every answer to; by default beside the scores' file, as NAME.predictions.jsonl."""
    tasks: Tasks = TASKS
    data: Folder = EMBEDDED
    """The dataset folder (docs/data.md says what it may hold), or `embedded`."""
    split: TestSplit = "auto"
    limit: Positive | None = None
    """How many images each task looks at; all of them by default."""
    pool: Pool = 200
    batch_size: BatchSize = 32
    dtype: Dtype = "auto"
    card: InputPath | None = None
    """A result folder whose model card gets the scores: the model's own, or one that was made from it."""

    def identity(self) -> dict[str, Any]:
        """What decides the scores; a card only shows them, and predictions are written beside."""
        return {key: value for key, value in super().identity().items() if key not in ("card", "predictions")}

    def place_of_predictions(self) -> Path | None:
        """The file that every answer goes to; None where nothing is written."""
        if self.predictions is not None or self.output is None:
            return self.predictions
        return self.output.with_name(f"{self.output.name.removesuffix('.json')}.predictions.jsonl")
