"""What `ressa evaluate` is told."""

from typing import Any, Literal

from ressa.recipe.decoding import DecodingRecipe
from ressa.recipe.fields import (
    EMBEDDED,
    TASKS,
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


class EvaluateRecipe(DecodingRecipe):
    """Score a model on the tasks of a dataset folder."""

    command: Literal["evaluate"] = "evaluate"
    model: Model
    output: OutputFile | None = None
    """The JSON file to write the scores to."""
    tasks: Tasks = TASKS
    data: Folder = EMBEDDED
    """The dataset folder (docs/evaluate.md shows its layout), or `embedded`."""
    split: TestSplit = "auto"
    limit: Positive | None = None
    """How many images each task looks at; all of them by default."""
    pool: Pool = 200
    batch_size: BatchSize = 32
    dtype: Dtype = "auto"
    card: InputPath | None = None
    """A result folder whose model card gets the scores: the model's own, or one that was made from it."""

    def identity(self) -> dict[str, Any]:
        """What decides the scores; a card only shows them."""
        return {key: value for key, value in super().identity().items() if key != "card"}
