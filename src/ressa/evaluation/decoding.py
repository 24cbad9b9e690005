"""How answers and captions are to be generated, where that is not left to a protocol."""

from dataclasses import dataclass

Tokens = tuple[int, int]


@dataclass(frozen=True)
class Decoding:
    """What is asked of the generation instead of what the protocol says (`protocols.Settings`); None leaves it.

    beams: 1 is greedy. …_tokens: at least and at most so many, the end token included. …_length_penalty: of the
    beams, whose log-probability is divided by length ** penalty. repetition_penalty: of tokens that the answer has
    already (Keskar et al., arXiv 1909.05858); the prompt's do not count.
    """

    beams: int | None = None
    answer_tokens: Tokens | None = None
    caption_tokens: Tokens | None = None
    answer_length_penalty: float | None = None
    caption_length_penalty: float | None = None
    repetition_penalty: float | None = None
