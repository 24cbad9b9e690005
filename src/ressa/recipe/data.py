"""How a recipe that reads a dataset folder treats what it finds there."""

from typing import Any, Literal

from pydantic import Field

from ressa.recipe.base import BaseRecipe

LARGEST_PICTURE = 180_000_000  # pixels, 15000 × 12000: 540 MB in memory


class DataRecipe(BaseRecipe):
    """A recipe that reads a dataset folder."""

    on_bad_sample: Literal["stop", "skip"] = "stop"
    """stop: what cannot be used is named before any work starts; skip: it is left out, and named."""
    max_pixels: int = Field(default=LARGEST_PICTURE, gt=0, le=10**10)
    """The largest picture that is read, in pixels."""
    follow_links: bool = False
    """Follow symbolic links that lead out of the dataset folder."""

    def identity(self) -> dict[str, Any]:
        """What decides the result; the three above only say whether there is one."""
        own = DataRecipe.model_fields.keys() - BaseRecipe.model_fields.keys()
        return {key: value for key, value in super().identity().items() if key not in own}

    def common(self) -> dict[str, Any]:
        """The fields that every such recipe has, for a recipe made of this one."""
        return {name: getattr(self, name) for name in DataRecipe.model_fields}
