"""How a recipe that scores a model asks it, and how long it may answer."""

from typing import Annotated

from pydantic import BeforeValidator, Field, field_validator

from ressa.data.prompts import CAPTION, QUESTION
from ressa.errors import brief
from ressa.evaluation.decoding import Decoding, Tokens
from ressa.recipe.fields import Positive, PositiveFloat
from ressa.recipe.presets import PresetRecipe

MOST_TOKENS = 100_000


def read_tokens(text: str) -> Tokens:
    """Read "8-30" (at least 8, at most 30) or "30". Raises ValueError for anything else."""
    least, dash, most = text.partition("-")
    parts = [least, most] if dash else ["1", least]
    if not all(part.strip().isdecimal() and len(part) < 10 for part in parts):
        raise ValueError(f"{brief(text)} is no number of tokens: write the least and the most, as in 8-30")
    found = int(parts[0]), int(parts[1])
    if not 1 <= found[0] <= found[1] <= MOST_TOKENS:
        raise ValueError(
            f"{brief(text)} tokens cannot be had: write the least and the most, from 1 to {MOST_TOKENS:,}"
        )
    return found


def _one_spelling(value: object) -> object:
    if isinstance(value, int | str) and not isinstance(value, bool):
        return "{}-{}".format(*read_tokens(str(value)))
    return value


TokensText = Annotated[str, BeforeValidator(_one_spelling)]
LengthPenalty = Annotated[float, Field(ge=-100, le=100)]


class DecodingRecipe(PresetRecipe):
    """A recipe that asks a model questions and has it write captions."""

    beams: Positive = 1
    """Beams of the generation."""
    answer_tokens: TokensText = "1-10"
    """How long an answer may be, its end included: 10, or at least and at most, 1-10."""
    caption_tokens: TokensText = "1-50"
    """How long a caption may be, likewise."""
    answer_length_penalty: LengthPenalty | None = None
    """Beams of answers are compared by log-probability / length ** this; below 0 prefers short ones."""
    caption_length_penalty: LengthPenalty | None = None
    """The same of captions."""
    repetition_penalty: PositiveFloat | None = None
    """Above 1, words that were said become less likely; by default the model's own."""
    question_prompt: str = QUESTION
    """What stands around a question, which goes where the {} is."""
    caption_prompt: str = CAPTION
    """What asks for a caption."""

    @field_validator("question_prompt")
    @classmethod
    def _check_question(cls, value: str) -> str:
        if value.count("{}") != 1:
            raise ValueError(
                f"the prompt {brief(value)} says not where the question goes: write {{}} there, once"
            )
        return value

    def decoding(self) -> Decoding:
        """What the generation is told."""
        return Decoding(
            beams=self.beams,
            answer_tokens=read_tokens(self.answer_tokens),
            caption_tokens=read_tokens(self.caption_tokens),
            answer_length_penalty=self.answer_length_penalty,
            caption_length_penalty=self.caption_length_penalty,
            repetition_penalty=self.repetition_penalty,
        )
