"""Plain text beside image-text samples."""

from typing import Annotated

from pydantic import Field

from ressa.recipe.fields import Folder, Positive

OWN, ENGLISH, AUTO = "own", "english", "auto"

Text = Annotated[
    Folder | None,
    Field(
        description="Plain text beside the pictures, against forgetting: `own` (the dense model writes it), `english` "
        "(prose that ships with ressa), `auto` (that, where the model reads it), or a text file or folder."
    ),
]
TextSamples = Annotated[Positive, Field(description="How many texts.")]
TextTokens = Annotated[int, Field(gt=7, le=100_000, description="How many tokens each has.")]


def texts_beside(samples: int, share: float) -> int:
    """How many texts come to this share of what is trained on, beside so many samples."""
    return round(samples * share / (1 - share))
