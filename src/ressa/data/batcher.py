"""Samples to model inputs, for any image-text family: prompt, image placeholders, padding and label masking.

What differs between families is found by structure: whether the language model is an encoder-decoder
(its config), whether the processor writes the image placeholders itself (tried once on a blank image),
whether it has a chat template, and which of its outputs run along the text (their shape).
"""

import copy
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedConfig

from ressa.data.images import ImageCache
from ressa.data.remembering import RememberingImageProcessor
from ressa.data.sample import Sample
from ressa.errors import UsageError

IGNORED = -100  # the label value that torch's and transformers' cross-entropy leave out

Rows = list[Tensor]


class Batcher:
    """Turns samples into batches of tensors on the CPU; pixel values are float32, ids and masks int64.

    Args:
        processor: the model's transformers processor (image processor + tokenizer).
        config: the model's config.
    """

    def __init__(self, processor: Any, config: PreTrainedConfig) -> None:
        if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
            raise UsageError(
                f"{type(processor).__name__} does not process both images and text: "
                "give a vision-language model saved with its processor."
            )
        self.processor = copy.copy(processor)  # the caller's keeps its own image processor
        self.processor.image_processor = RememberingImageProcessor(processor.image_processor)
        self.tokenizer = processor.tokenizer
        text_config = config.get_text_config()
        self.encoder_decoder = bool(config.is_encoder_decoder or text_config.is_encoder_decoder)
        # Some tokenizers (Llama's) have no padding token; what fills the padding is masked everywhere.
        self.pad_id = _first_known(self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        self.eos_id = _first_known(self.tokenizer.eos_token_id, _single(text_config.eos_token_id), None)
        self.image_token = _content(getattr(processor, "image_token", None))
        self.image_token_id = None
        if self.image_token is not None:
            self.image_token_id = self.tokenizer.convert_tokens_to_ids(self.image_token)
        self._images = ImageCache()

    # -- the three things a caller wants ------------------------------------------------------------------

    def training(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Inputs with `labels`, for a forward pass that returns the loss of the targets.

        Encoder-decoder: `input_ids` (B, L) hold the prompt, `labels` (B, T) the target and its end token,
        −100 in the padding; `decoder_attention_mask` (B, T) marks the target. Decoder-only: `input_ids`
        (B, L) hold prompt, target and end token, padded on the right; `labels` (B, L) are −100 everywhere
        but on target and end token.
        Raises UsageError when there are no samples or one has no target.
        """
        for sample in samples:
            if not sample.target or not sample.target.strip():
                raise UsageError(
                    f"sample {sample.id or '(unnamed)'} has no target text to learn from: give it one."
                )
        rows, rest = self._encode(samples)
        if self.encoder_decoder:
            labels = self._decoder_targets([sample.target.strip() for sample in samples])  # type: ignore[union-attr]
            batch = self._padded(rows, left=False) | rest
            batch["labels"] = _pad(labels, IGNORED, left=False)
            batch["decoder_attention_mask"] = (batch["labels"] != IGNORED).long()
            return batch
        self._drop_end_token(rows)
        rows["labels"] = [torch.full_like(row, IGNORED) for row in rows["input_ids"]]
        self._append(rows, self._continuations(samples))
        return self._padded(rows, left=False) | rest

    def generation(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Inputs for `model.generate`: the prompts, padded on the left for decoder-only language models."""
        rows, rest = self._encode(samples)
        if not self.encoder_decoder and self.image_token_id is not None:
            self._drop_end_token(rows)
        return self._padded(rows, left=not self.encoder_decoder) | rest

    def decode(self, generated: Tensor, inputs: dict[str, Tensor]) -> list[str]:
        """The new text in what `generate` returned, without special tokens.

        generated: (B, L) ids. Families differ in whether the prompt comes back in front: it is cut where
        it does.
        """
        prompt = inputs["input_ids"]
        length = prompt.shape[1]
        if generated.shape[1] >= length and torch.equal(generated[:, :length].to(prompt.device), prompt):
            generated = generated[:, length:]
        texts = self.tokenizer.batch_decode(generated.tolist(), skip_special_tokens=True)
        return [text.strip() for text in texts]

    # -- prompts ------------------------------------------------------------------------------------------

    def render(self, prompt: str) -> str:
        """The text for the processor: the prompt in the chat template or behind the image placeholder."""
        if getattr(self.processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": prompt}]
            conversation = [{"role": "user", "content": content}]
            return self.processor.apply_chat_template(
                conversation, tokenize=False, add_generation_prompt=True
            )
        if self._writes_placeholders or self.image_token is None:
            return prompt
        return f"{self.image_token}\n{prompt}"

    @cached_property
    def _writes_placeholders(self) -> bool:
        """Whether the processor puts image tokens in front of a text that has none (BLIP-2, PaliGemma do)."""
        blank = Image.new("RGB", (32, 32))
        try:
            ids = self.processor(images=[[blank]], text=["a"], return_tensors="pt")["input_ids"]
        except (
            ValueError,
            IndexError,
            RuntimeError,
        ):  # a processor that wants the placeholder says so this way
            return False
        return bool((ids == self.image_token_id).any())

    def _encode(self, samples: Sequence[Sample]) -> tuple[dict[str, Rows], dict[str, Tensor]]:
        """The processor's output: what runs along the text, as rows without padding, and the rest."""
        if not samples:
            raise UsageError("there are no samples to make a batch of: give at least one image-text sample.")
        texts = [self.render(sample.prompt) for sample in samples]
        images = [[image] for image in self._images.load(samples)]
        options: dict[str, Any] = {"padding": True, "return_tensors": "pt"}
        bos = self.tokenizer.bos_token
        if bos and texts[0].startswith(bos):  # the chat template has written it already
            options["add_special_tokens"] = False
        had_no_padding = self.tokenizer.pad_token is None
        if had_no_padding:
            self.tokenizer.pad_token_id = self.pad_id
        try:
            encoded = dict(self.processor(images=images, text=texts, **options))
        finally:
            if had_no_padding:
                self.tokenizer.pad_token = None
        return self._split(encoded)

    @staticmethod
    def _split(encoded: dict[str, Tensor]) -> tuple[dict[str, Rows], dict[str, Tensor]]:
        """Take out the tensors that run along the text (integer, (B, L, ...)), their padding cut off."""
        shape = encoded["input_ids"].shape
        if "attention_mask" not in encoded:
            encoded["attention_mask"] = torch.ones_like(encoded["input_ids"])
        real = encoded["attention_mask"].bool()
        rows: dict[str, Rows] = {}
        rest: dict[str, Tensor] = {}
        for key, value in encoded.items():
            along_text = value.shape[:2] == shape and not value.is_floating_point() and "qformer" not in key
            if along_text:
                rows[key] = [line[keep] for line, keep in zip(value, real, strict=True)]
            else:
                rest[key] = value
        return rows, rest

    def _padded(self, rows: dict[str, Rows], left: bool) -> dict[str, Tensor]:
        fill = {"input_ids": self.pad_id, "labels": IGNORED}
        return {key: _pad(values, fill.get(key, 0), left) for key, values in rows.items()}

    # -- targets ------------------------------------------------------------------------------------------

    def _decoder_targets(self, targets: list[str]) -> Rows:
        """Target ids as the decoder of an encoder-decoder predicts them, each with its end token."""
        ids = self.tokenizer(targets, return_attention_mask=False)["input_ids"]
        return [torch.tensor(self._ended(row)) for row in ids]

    def _continuations(self, samples: Sequence[Sample]) -> Rows:
        """Target ids as they follow the prompt, each with its end token.

        A token may depend on what stands before it (a leading space, SentencePiece's "▁"), so the target is
        tokenised behind the prompt's last character, whose own tokens are then cut off.
        """
        texts, anchors = [], []
        for sample in samples:
            anchor = self.render(sample.prompt)[-1:]
            space = "" if anchor.isspace() or not anchor else " "
            anchors.append(anchor)
            texts.append(f"{anchor}{space}{sample.target.strip()}")  # type: ignore[union-attr]
        joined = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        heads = {anchor: self.tokenizer.encode(anchor, add_special_tokens=False) for anchor in set(anchors)}
        rows = []
        for sample, anchor, row in zip(samples, anchors, joined, strict=True):
            head = heads[anchor]
            if row[: len(head)] != head:  # the anchor merged with the target: tokenise the target alone
                row, head = self.tokenizer.encode(sample.target.strip(), add_special_tokens=False), []  # type: ignore[union-attr]
            rows.append(torch.tensor(self._ended(row[len(head) :])))
        return rows

    def _ended(self, ids: list[int]) -> list[int]:
        if self.eos_id is None or (ids and ids[-1] == self.eos_id):
            return ids
        return [*ids, self.eos_id]

    def _drop_end_token(self, rows: dict[str, Rows]) -> None:
        """Cut the end token that some tokenizers put behind every text: here the answer follows."""
        ends = {self.eos_id, self.tokenizer.sep_token_id} - {None}
        for index, ids in enumerate(rows["input_ids"]):
            if len(ids) and ids[-1].item() in ends:
                for values in rows.values():
                    values[index] = values[index][:-1]

    def _append(self, rows: dict[str, Rows], targets: Rows) -> None:
        """Put the target ids behind the prompt in every tensor that runs along the text."""
        for index, target in enumerate(targets):
            prompt = rows["input_ids"][index]
            for key, values in rows.items():
                if key in ("input_ids", "labels"):
                    tail = target
                elif key == "attention_mask":
                    tail = torch.ones_like(target)
                elif key == "token_type_ids":
                    tail = torch.full_like(target, self._target_type(prompt, values[index]))
                elif key == "mm_token_type_ids":
                    tail = torch.zeros_like(target)
                else:  # such as Mllama's cross_attention_mask: the target sees what the prompt's end sees
                    tail = values[index][-1:].expand(len(target), *values[index].shape[1:])
                values[index] = torch.cat([values[index], tail])

    def _target_type(self, prompt: Tensor, types: Tensor) -> int:
        """1 (causal suffix) where image tokens have type 0 (PaliGemma), else 0 (plain text)."""
        image = prompt == self.image_token_id if self.image_token_id is not None else torch.zeros(0)
        return int(bool(image.any()) and not bool(types[image].any()))


def _pad(rows: Rows, value: int, left: bool) -> Tensor:
    """Stack rows (L_i, ...) to (B, max L, ...), filling with `value` on one side."""
    length = max(len(row) for row in rows)
    batch = rows[0].new_full((len(rows), length, *rows[0].shape[1:]), value)
    for line, row in zip(batch, rows, strict=True):
        if left:
            line[length - len(row) :] = row
        else:
            line[: len(row)] = row
    return batch


def _first_known(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _single(value: int | list[int] | None) -> int | None:
    return value[0] if isinstance(value, list) else value


def _content(token: Any) -> str | None:
    return getattr(token, "content", token)
