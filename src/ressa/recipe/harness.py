"""What an evaluation is told that somebody else's harness runs."""

from typing import Any, Literal

from pydantic import model_validator

from ressa.recipe.decoding import DecodingRecipe
from ressa.recipe.fields import InputPath, Names

# What a harness looks at beside its own fields and those of every recipe.
SHARED = ("command", "model", "output", "limit", "batch_size", "dtype", "card", "max_pixels")


class HarnessRecipe(DecodingRecipe):
    """A recipe that scores a model, perhaps by a harness."""

    harness: Literal["lmms-eval"] | None = None
    """lmms-eval: have it score the model, on its own tasks (docs/tools.md)."""
    harness_tasks: Names = ()
    """The harness's tasks, separated by commas."""
    include_path: InputPath | None = None
    """A folder with tasks of your own for the harness, as lmms-eval's --include_path."""
    harness_python: InputPath | None = None
    """The interpreter of another environment that has ressa and the harness."""

    @model_validator(mode="after")
    def _check_harness(self) -> "HarnessRecipe":
        fields = type(self).model_fields
        told = [name for name in fields if getattr(self, name) != fields[name].default]
        if self.harness is None:
            only = [name for name in ("harness_tasks", "include_path", "harness_python") if name in told]
            if only:
                raise ValueError(f"'{only[0]}' is for a harness: name it, as in harness: lmms-eval")
            return self
        if not self.harness_tasks:
            raise ValueError("the harness needs the names of its tasks: give harness_tasks, as in mme,pope")
        known = {*SHARED, *HarnessRecipe.__annotations__, "seed", "device"}
        foreign = [name for name in told if name not in known]
        if foreign:
            raise ValueError(
                f"the tasks of {self.harness} decide '{foreign[0]}' themselves: leave it out, or the harness"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """What decides the scores; the interpreter only says where."""
        return {key: value for key, value in super().identity().items() if key != "harness_python"}
