"""Where samples come from: one dataset folder, or several with weights.

On a command line several are written `./coco:2,./llava:1`: folders separated by commas, each with its weight behind a
colon, 1 where there is none. The name of a folder that is there is taken as it is, whatever it holds. In YAML it may
also be a list, whose entries can name a split and a mixture of their own:

    calibration:
      - {data: ./coco, weight: 2, mixture: captions}
      - {data: ./llava, mixture: instruct}
"""

import math
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ressa.errors import brief
from ressa.recipe.fields import path_text, split_name

_WEIGHTED = re.compile(r"(?P<data>.+):(?P<weight>\d+(?:\.\d+)?|\.\d+)")


class Source(BaseModel):
    """A dataset folder and its weight among others; split and mixture are the recipe's where none are given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str
    weight: float = 1.0
    split: str | None = None
    mixture: str | None = None


def sources_in(value: Any) -> Any:
    """One folder as text, or the sources that a text or a list names."""
    if isinstance(value, str | Path):
        text = path_text(value)
        if Path(text).is_dir():
            return text
        parts = [part.strip() for part in text.split(",")]
        if len(parts) == 1 and not _WEIGHTED.fullmatch(text):
            return text
        return tuple(_source(part) for part in parts)
    if isinstance(value, list | tuple):
        if not value:
            raise ValueError("no dataset folder is named: name one, or 'embedded'")
        return tuple(_source(part) for part in value)
    return value


def _source(value: Any) -> Source:
    if isinstance(value, Source):
        return value
    if isinstance(value, str | Path):
        text = str(value)
        weighted = None if Path(text).expanduser().is_dir() else _WEIGHTED.fullmatch(text)
        value = weighted.groupdict() if weighted else {"data": text}
    if not isinstance(value, dict) or "data" not in value or not set(value) <= set(Source.model_fields):
        raise ValueError(
            f"{brief(value)} is no source of samples: write data, and where you like weight, split and mixture"
        )
    weight = value.get("weight", 1.0)
    try:
        weight = float(weight)
    except (TypeError, ValueError):
        raise ValueError(f"{brief(weight)} is no weight: write a number above 0") from None
    if isinstance(value.get("weight"), bool) or not 0 < weight <= 1e9 or math.isnan(weight):
        raise ValueError(f"a weight of {brief(weight)} cannot be: write a number above 0")
    split, mixture = value.get("split"), value.get("mixture")
    if not isinstance(value["data"], str | Path) or not isinstance(mixture, str | None):
        raise ValueError(f"{brief(value)} is no source of samples: data and mixture are texts")
    if split is not None:
        split = split_name(str(split))
    return Source(data=path_text(value["data"]), weight=weight, split=split, mixture=mixture)


Sources = Annotated[str | tuple[Source, ...], BeforeValidator(sources_in)]
Calibration = Annotated[
    Sources,
    Field(
        description="The dataset folder of the calibration samples, or `embedded`; several with weights: "
        "./coco:2,./llava."
    ),
]
Training = Annotated[
    Sources,
    Field(
        description="The dataset folder of the training samples, or `embedded`; several with weights: "
        "./coco:2,./llava."
    ),
]


def folders_of(sources: str | tuple[Source, ...]) -> list[str]:
    """The folders, in order."""
    return [sources] if isinstance(sources, str) else [source.data for source in sources]


def sources_in_words(sources: str | tuple[Source, ...]) -> str:
    """As a person writes them."""
    if isinstance(sources, str):
        return sources
    return ",".join(f"{source.data}:{source.weight:g}" for source in sources)
