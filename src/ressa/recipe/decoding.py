"""How a recipe that scores a model asks it, and how long it may answer."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from ressa.errors import brief
from ressa.evaluation.decoding import Decoding, Tokens
from ressa.recipe.fields import CaptionMetrics, Positive, PositiveFloat
from ressa.recipe.presets import PresetRecipe
from ressa.task_names import Choosing, MetricForm, ProtocolName

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

    protocol: ProtocolName = "ressa"
    """Whose prompts, lengths, beams and metrics (docs/evaluate.md): ressa, instructblip or llava; what follows
    overrides it."""
    metric: MetricForm | None = None
    """Whose form of a metric, where a task has several: official, lavis, llava or normalised."""
    beams: Positive | None = None
    """Beams of the generation."""
    answer_tokens: TokensText | None = None
    """How long an answer may be, its end included: 10, or at least and at most, 1-10."""
    caption_tokens: TokensText | None = None
    """How long a caption may be, likewise."""
    answer_length_penalty: LengthPenalty | None = None
    """Beams of answers are compared by log-probability / length ** this; below 0 prefers short ones."""
    caption_length_penalty: LengthPenalty | None = None
    """The same of captions."""
    repetition_penalty: PositiveFloat | None = None
    """Above 1, words that were said become less likely; by default the model's own."""
    question_prompt: str | None = None
    """What stands around a question, which goes where the {} is."""
    question_text: Literal["whole", "blip"] | None = None
    """whole: questions as they stand; blip: in lower case, without punctuation but ?, as LAVIS reads them."""
    caption_prompt: str | None = None
    """What asks for a caption."""
    class_prompt: str | None = None
    """What stands around a class's name, which goes where the {} is; several are separated by |."""
    choose: Choosing | None = None
    """Multiple choice by the likelihood of an option's text or letter, or by the letter in a generated answer."""
    circular: bool | None = None
    """Multiple choice counts where it is right with the options in every rotation."""
    caption_metrics: CaptionMetrics | None = None
    """What captions are scored by beside CIDEr-D, separated by commas: bleu, meteor, spice."""
    rerank: Positive | None = None
    """How many candidates an image-text matching head looks at in retrieval; 128 by default."""

    @field_validator("question_prompt")
    @classmethod
    def _check_question(cls, value: str | None) -> str | None:
        if value is not None and value.count("{}") != 1:
            raise ValueError(
                f"the prompt {brief(value)} says not where the question goes: write {{}} there, once"
            )
        return value

    @field_validator("class_prompt")
    @classmethod
    def _check_classes(cls, value: str | None) -> str | None:
        if value is not None and any(each.count("{}") != 1 for each in value.split("|")):
            raise ValueError(
                f"the prompt {brief(value)} says not where the class's name goes: write {{}} there, once"
            )
        return value

    def asking(self) -> dict[str, Any]:
        """How a model is asked, as `evaluation.draw` takes it."""
        own = ("protocol", "metric", "question_text", "choose", "circular", "caption_metrics", "rerank")
        return {
            **{name: getattr(self, name) for name in own},
            "question": self.question_prompt,
            "caption": self.caption_prompt,
            "class_prompt": self.class_prompt,
            "decoding": Decoding(
                beams=self.beams,
                answer_tokens=None if self.answer_tokens is None else read_tokens(self.answer_tokens),
                caption_tokens=None if self.caption_tokens is None else read_tokens(self.caption_tokens),
                answer_length_penalty=self.answer_length_penalty,
                caption_length_penalty=self.caption_length_penalty,
                repetition_penalty=self.repetition_penalty,
            ),
        }
