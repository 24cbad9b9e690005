"""What `ressa report` is told."""

from pathlib import Path
from typing import Any, Literal

from ressa.embedded import EMBEDDED
from ressa.recipe.data import DataRecipe
from ressa.recipe.fields import (
    BatchSize,
    Dtype,
    Folder,
    Models,
    OutputFile,
    Pool,
    Positive,
    Tasks,
    TestSplit,
)
from ressa.task_names import TASKS


class ReportRecipe(DataRecipe):
    """Show models side by side on one page: scores, zeros, cost, and where each looks."""

    command: Literal["report"] = "report"
    models: Models
    output: OutputFile = Path("report.html")
    """The page to write; its numbers go beside it, as JSON."""
    tasks: Tasks = TASKS
    data: Folder = EMBEDDED
    """The dataset folder to score on, or `embedded`."""
    split: TestSplit = "auto"
    limit: Positive | None = 100
    """How many images each task looks at."""
    pool: Pool = 50
    looks: Positive = 24
    """Of how many questions maps are made."""
    shown: Positive = 8
    """How many of them the page shows."""
    batch_size: BatchSize = 32
    dtype: Dtype = "auto"

    def identity(self) -> dict[str, Any]:
        """What decides the numbers; how many samples are shown does not."""
        return {key: value for key, value in super().identity().items() if key != "shown"}
