"""How answers and captions are generated: beams, lengths and penalties."""

from dataclasses import asdict, dataclass
from typing import Any

Tokens = tuple[int, int]


@dataclass(frozen=True)
class Decoding:
    """beams: 1 is greedy. …_tokens: at least and at most so many, the end token included. …_length_penalty: of the
    beams, whose log-probability is divided by length ** penalty. repetition_penalty: of tokens that the answer has
    already (Keskar et al., arXiv 1909.05858); the prompt's do not count. None: the model's own.
    """

    beams: int = 1
    answer_tokens: Tokens = (1, 10)  # at most 10, as in the evaluation of BLIP-2 and InstructBLIP
    caption_tokens: Tokens = (1, 50)
    answer_length_penalty: float | None = None
    caption_length_penalty: float | None = None
    repetition_penalty: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able data."""
        return {name: list(x) if isinstance(x, tuple) else x for name, x in asdict(self).items()}

    def answers(self) -> dict[str, Any]:
        """What `generate` is told for answers."""
        return self._options(self.answer_tokens, self.answer_length_penalty)

    def captions(self) -> dict[str, Any]:
        """What `generate` is told for captions."""
        return self._options(self.caption_tokens, self.caption_length_penalty)

    def _options(self, tokens: Tokens, length_penalty: float | None) -> dict[str, Any]:
        least, most = tokens
        return {
            "beams": self.beams,
            "min_new_tokens": least - 1,
            "max_new_tokens": most,
            "length_penalty": length_penalty,
            "repetition_penalty": self.repetition_penalty,
        }
