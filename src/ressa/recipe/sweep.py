"""What `ressa sweep` is told."""

from typing import Any, Literal

from pydantic import Field

from ressa.embedded import EMBEDDED
from ressa.recipe.decoding import DecodingRecipe
from ressa.recipe.fields import (
    BatchSize,
    CalibrationSplit,
    Dtype,
    Folder,
    Method,
    MethodOptions,
    Mixture,
    Model,
    OutputFolder,
    Pool,
    Positive,
    Samples,
    Seeds,
    Tasks,
    TestSplit,
)
from ressa.recipe.sources import Calibration


class SweepRecipe(DecodingRecipe):
    """Prune a model many times, score each time, and draw where sparsity should go."""

    command: Literal["sweep"] = "sweep"
    model: Model
    output: OutputFolder
    """The folder to write: finished points, CSV and PNG."""
    figure: Literal["allocation", "modality"] = "allocation"
    """allocation: vision to language at a constant sum; modality: which tower is pruned."""
    method: Method = "wanda"
    seeds: Seeds = (0,)
    """Of the calibration samples, separated by commas; every point is run with each."""
    tasks: Tasks = ("vqa", "okvqa", "gqa", "caption")
    data: Folder = EMBEDDED
    """The dataset folder to score on, or `embedded`."""
    split: TestSplit = "auto"
    limit: Positive | None = 100
    """How many images each task looks at."""
    pool: Pool = 50
    calibration: Calibration = EMBEDDED
    calibration_split: CalibrationSplit = "auto"
    mixture: Mixture = "mix"
    samples: Samples = 64
    crops: bool = False
    """Cut the calibration samples' pictures to half of their area or more, and mirror half of them."""
    vision_scope: Literal["row", "layer"] | None = None
    """Over what the vision tower's weights are compared; by default as the method's paper does."""
    batch_size: BatchSize = 32
    dtype: Dtype = "auto"
    options: MethodOptions = Field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """What decides the score of a point, whichever figure and seeds it is asked for."""
        own = {"seeds", "figure", "seed", "method", "options"}
        return {key: value for key, value in super().identity().items() if key not in own}
