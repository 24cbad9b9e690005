"""What a model can read: how many tokens, and which words of a text it would take for a picture."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from ressa.errors import UsageError


class Limits:
    """A model's limits, by its config and processor.

    positions: tokens of one sample, those of the image included; None where the model has no such limit (T5).
    qformer: tokens of the prompt that a Q-Former reads; None where there is none.
    placeholders: what the processor would take for an image, a video or a sound.
    """

    def __init__(self, processor: Any, config: PreTrainedConfig) -> None:
        positions = getattr(config.get_text_config(), "max_position_embeddings", None)
        self.positions: int | None = positions if isinstance(positions, int) and positions > 0 else None
        qformer = getattr(config, "qformer_config", None)
        reads = getattr(processor, "qformer_tokenizer", None) is not None
        self.qformer: int | None = qformer.max_position_embeddings if qformer is not None and reads else None
        tokens = (getattr(processor, f"{kind}_token", None) for kind in ("image", "video", "audio"))
        self.placeholders = [str(getattr(token, "content", token)) for token in tokens if token]
        self._placeholder = re.compile("|".join(map(re.escape, self.placeholders)) or "(?!)")

    def cleaned(self, text: str) -> str:
        """A text without placeholders: the one image's is put there by the prompt's template."""
        return self._placeholder.sub("", text).strip() if self.has_placeholder(text) else text

    def has_placeholder(self, text: str) -> bool:
        return self._placeholder.search(text) is not None

    def cut_for_qformer(self, encoded: dict[str, Tensor]) -> None:
        """Keep as much of the Q-Former's text as it has positions for, and its last token.

        encoded: `qformer_input_ids` and `qformer_attention_mask` (B, L), padded on the right, are changed. The
        language model reads the prompt whole, as it does where the family was trained.
        """
        limit = self.qformer
        ids = encoded.get("qformer_input_ids")
        if limit is None or ids is None or ids.shape[1] <= limit:
            return
        real = encoded.get("qformer_attention_mask", torch.ones_like(ids))
        lengths = real.sum(1)
        last = ids.gather(1, (lengths - 1)[:, None])[:, 0]
        encoded["qformer_input_ids"] = ids[:, :limit].clone()
        encoded["qformer_input_ids"][lengths > limit, -1] = last[lengths > limit]
        if "qformer_attention_mask" in encoded:
            encoded["qformer_attention_mask"] = real[:, :limit]

    def check(self, names: Sequence[str], lengths: Sequence[int]) -> None:
        """Raises UsageError for the first sample that is longer than the model reads."""
        for name, length in zip(names, lengths, strict=True):
            if (problem := self.too_long(length)) is not None:
                raise UsageError(f"sample {name or '(unnamed)'} {problem}: shorten its text.")

    def too_long(self, length: int) -> str | None:
        if self.positions is None or length <= self.positions:
            return None
        return f"has {length:,} tokens with its image, and the model reads {self.positions:,}"
