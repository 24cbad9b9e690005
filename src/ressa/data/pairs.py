"""Pictures and texts to a dual encoder's inputs, as its processor makes them."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedConfig

from ressa.data.images import ImageCache
from ressa.data.limits import Limits
from ressa.data.remembering import with_memory
from ressa.data.sample import Sample, image_key
from ressa.data.untouched import untouched
from ressa.dual.structure import is_late, itm_switch
from ressa.errors import UsageError

LONGEST = 100_000  # tokens; tokenizers that have no limit of their own name a far larger one


class PairBatcher:
    """Turns samples into batches of pictures and texts; a sample's text is its target, its prompt is not used.

    Args:
        model: the dual encoder, not wrapped.
        processor: its processor; it is not changed.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
            raise UsageError(
                f"{type(processor).__name__} does not process both images and text: "
                "give a vision-language model saved with its processor."
            )
        self.late = is_late(processor)
        self.switch = itm_switch(model)
        self.processor = with_memory(processor)
        self.limits = Limits(processor, model.config)
        self.longest = _longest(processor.tokenizer, model.config)
        self._images = ImageCache()

    def training(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Inputs of pictures and texts, and which pairs are known not to match.

        Late interaction: `images` and `texts`, the inputs of a forward each; else `both`, those of one forward.
        `negatives`: bool (B, B), false where picture i has text j or one that reads the same, in the batch.
        Raises UsageError when there are no samples.
        """
        if not samples:
            raise UsageError("there are no samples to make a batch of: give at least one image-text sample.")
        texts = [self.text_of(sample) for sample in samples]
        pictures = self._images.load_single(samples)
        made: dict[str, Any] = {"negatives": negatives([image_key(sample) for sample in samples], texts)}
        if self.late:
            return made | {"images": self.pictures(pictures), "texts": self.texts(texts)}
        return made | {"both": self.both(pictures, texts)}

    def forwards(self, samples: Sequence[Sample]) -> list[dict[str, Tensor]]:
        """The inputs of every forward that a dual encoder makes of such samples, the one that reaches most first:
        pages and queries by themselves, or with an ITM head and without."""
        made = self.training(samples)
        if self.late:
            return [made["images"], made["texts"]]
        if self.switch is None:
            return [made["both"]]
        return [{**made["both"], self.switch: torch.tensor(on)} for on in (True, False)]

    def length(self, sample: Sample) -> int:
        """Tokens of a sample's text."""
        return len(self.processor.tokenizer.encode(self.text_of(sample)))

    def text_of(self, sample: Sample) -> str:
        return self.limits.cleaned((sample.target or "").strip())

    # -- what the processor makes -------------------------------------------------------------------------

    def both(self, pictures: list[Image.Image], texts: list[str]) -> dict[str, Tensor]:
        """Inputs of a forward on as many pictures as texts."""
        with untouched(self.processor):
            return dict(self.processor(images=pictures, text=texts, return_tensors="pt", **self._options))

    def pictures(self, pictures: list[Image.Image]) -> dict[str, Tensor]:
        """Inputs of a forward on pictures alone."""
        return _without_labels(self.processor.process_images(images=pictures))

    def texts(self, texts: list[str]) -> dict[str, Tensor]:
        """Inputs of a forward on texts alone."""
        with untouched(self.processor):
            return _without_labels(self.processor.process_queries(text=texts))

    @cached_property
    def _options(self) -> dict[str, Any]:
        """How texts are padded: as the processor does by itself (SigLIP 2, ALIGN); else to the longest, or, where the
        tokenizer makes no attention mask, to the full length, as that was learnt (SigLIP)."""
        options: dict[str, Any] = {"truncation": True}
        blank = [Image.new("RGB", (32, 32))] * 2
        try:
            with untouched(self.processor):
                rows = self.processor(images=blank, text=["a", "a a a"], truncation=True)["input_ids"]
            if len(rows[0]) == len(rows[1]):
                return options
        except ValueError:  # rows of different lengths make no tensor
            pass
        if self.longest is not None:
            options["max_length"] = self.longest
        masked = "attention_mask" in self.processor.tokenizer.model_input_names
        return options | {"padding": True if masked or self.longest is None else "max_length"}


def negatives(images: Sequence[Any], texts: Sequence[str]) -> Tensor:
    """bool (B, B): whether picture i and text j, of B pairs, are known to belong to different pairs: not where the
    pictures are one or the texts read the same."""
    spelled = [" ".join(text.lower().split()) for text in texts]

    def same(values: Sequence[Any]) -> Tensor:
        numbers: dict[Any, int] = {}
        found = torch.tensor([numbers.setdefault(value, len(numbers)) for value in values])
        return found[:, None] == found[None, :]

    return ~(same(images) | same(spelled))


def _longest(tokenizer: Any, config: PreTrainedConfig) -> int | None:
    """The tokens that a text may have, by the tokenizer and the positions of what reads it."""
    own = tokenizer.model_max_length
    parts = [getattr(config, "qformer_config", None) or config.get_text_config()]
    limits = [getattr(part, "max_position_embeddings", None) for part in parts]
    known = [each for each in (own, *limits) if isinstance(each, int) and 0 < each < LONGEST]
    return min(known) if known else None


def _without_labels(inputs: Any) -> dict[str, Tensor]:
    """Labels are for a loss over words, which such models do not have."""
    return {name: value for name, value in dict(inputs).items() if name != "labels"}
