"""Samples to model inputs, for any image-text family: prompt, image placeholders, padding and label masking.

What differs between families is found by structure: whether the language model is an encoder-decoder (its
config), how prompts and targets become tokens (`data/text.py`), and which of the processor's outputs run
along the text (their shape).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from ressa.data.ending import Ending, stop_ids
from ressa.data.images import ImageCache
from ressa.data.limits import Limits
from ressa.data.remembering import with_memory
from ressa.data.sample import Sample
from ressa.data.text import Text
from ressa.dual.batcher import PairBatcher
from ressa.dual.structure import is_dual_encoder
from ressa.errors import UsageError

if TYPE_CHECKING:
    from ressa.checkpoint import Vlm

IGNORED = -100  # the label value that torch's and transformers' cross-entropy leave out

Rows = list[Tensor]


class Batcher:
    """Turns samples into batches of tensors on the CPU; pixel values are float32, ids and masks int64.

    Args:
        processor: the model's transformers processor (image processor + tokenizer); it is not changed.
        config: the model's config.
        generation_config: the model's, where it has one; it says best where generation stops.
        end: how answers end; by default the likeliest of what the model's files say.
    """

    def __init__(
        self,
        processor: Any,
        config: PreTrainedConfig,
        generation_config: Any = None,
        *,
        end: Ending | None = None,
    ) -> None:
        if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
            raise UsageError(
                f"{type(processor).__name__} does not process both images and text: "
                "give a vision-language model saved with its processor."
            )
        self.processor = with_memory(processor)
        self.tokenizer = processor.tokenizer
        text_config = config.get_text_config()
        self.encoder_decoder = bool(config.is_encoder_decoder or text_config.is_encoder_decoder)
        self.limits = Limits(processor, config)
        self.text = Text(self.processor, self.encoder_decoder, stop_ids(config, generation_config), end)
        # Families whose image is no part of the text (BLIP, GIT) generate behind unpadded prompts only.
        self.pads_prompts = self.encoder_decoder or self.text.image_token is not None
        self._images = ImageCache()

    def training(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Inputs with `labels`, for a forward pass that returns the loss of the targets.

        Encoder-decoder: `input_ids` (B, L) hold the prompt, `labels` (B, T) the target and its end token,
        −100 in the padding; `decoder_attention_mask` (B, T) marks the target. Decoder-only: `input_ids`
        (B, L) hold prompt, target and end token, padded on the right; `labels` (B, L) are −100 everywhere
        but on target and end token. Raises UsageError when there are no samples or one has no target.
        """
        targets = self.targets(samples)
        rows, rest = self._encode(samples)
        names = [sample.id for sample in samples]
        self.limits.check(names, [len(target) for target in targets])
        if self.encoder_decoder:
            batch = self._padded(rows, left=False) | rest
            batch["labels"] = pad(targets, IGNORED)
            batch["decoder_attention_mask"] = (batch["labels"] != IGNORED).long()
            return batch
        self._drop_end_token(rows)
        rows["labels"] = [torch.full_like(row, IGNORED) for row in rows["input_ids"]]
        for index, target in enumerate(targets):
            self._append(rows, index, target)
        self.limits.check(names, [len(row) for row in rows["input_ids"]])
        return self._padded(rows, left=False) | rest

    def forwards(self, samples: Sequence[Sample]) -> list[dict[str, Tensor]]:
        """The inputs of each forward that learning from such samples takes: one."""
        return [self.training(samples)]

    def generation(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Inputs for `model.generate`: the prompts, padded on the left for decoder-only language models.

        Where `pads_prompts` is False, hand in prompts of one length (`alike`).
        """
        rows, rest = self._encode(samples)
        if not self.encoder_decoder and self.pads_prompts:
            self._drop_end_token(rows)
        return self._padded(rows, left=not self.encoder_decoder) | rest

    def alike(self, samples: Sequence[Sample]) -> list[list[int]]:
        """Positions of the samples in groups that `generation` can take together, each in order."""
        if self.pads_prompts:
            return [list(range(len(samples)))]
        groups: dict[int, list[int]] = {}
        for index, sample in enumerate(samples):
            groups.setdefault(len(self.tokenizer.encode(sample.prompt)), []).append(index)
        return list(groups.values())

    def targets(self, samples: Sequence[Sample]) -> Rows:
        """The token ids (T_i,) of each target as the language model has to predict them, end token included.

        Raises UsageError when there are no samples or one has no target.
        """
        if not samples:
            raise UsageError("there are no samples to make a batch of: give at least one image-text sample.")
        for sample in samples:
            if not (sample.target or "").strip():
                name = sample.id or "(unnamed)"
                raise UsageError(f"sample {name} has no target text to learn from: give it one.")
        texts = [self.limits.cleaned((sample.target or "").strip()) for sample in samples]
        ids = self.text.target_ids([self.limits.cleaned(sample.prompt) for sample in samples], texts)
        return [torch.tensor(row) for row in ids]

    def stopping(self) -> dict[str, Any]:
        """What `model.generate` must be told to stop where answers end; nothing where its configs say it."""
        return self.text.stopping()

    def length(self, sample: Sample) -> int:
        """Tokens of a sample where the model needs most positions: those of its image and its target count."""
        rows, _ = self._encode([sample], check=False)
        if sample.target and not self.encoder_decoder:
            self._drop_end_token(rows)
        prompt = len(rows["input_ids"][0])
        target = len(self.targets([sample])[0]) if sample.target else 0
        return max(prompt, target) if self.encoder_decoder else prompt + target

    def decode(self, generated: Tensor, inputs: dict[str, Tensor]) -> list[str]:
        """The new text in what `generate` returned, without special tokens.

        generated: (B, L) ids. Families differ in whether the prompt comes back in front, as it was or with
        its first token replaced (BLIP): it is cut where it does.
        """
        prompt = inputs["input_ids"]
        length = prompt.shape[1]
        if generated.shape[1] >= length and torch.equal(generated[:, :length].to(prompt.device), prompt):
            return self._texts(generated[:, length:])
        texts = self._texts(generated)
        if self.encoder_decoder or self.text.image_token is not None:
            return texts
        return [
            text.removeprefix(asked).strip() for text, asked in zip(texts, self._texts(prompt), strict=True)
        ]

    def _texts(self, ids: Tensor) -> list[str]:
        return self.text.read(ids.tolist())

    def _encode(
        self, samples: Sequence[Sample], check: bool = True
    ) -> tuple[dict[str, Rows], dict[str, Tensor]]:
        """The processor's output: what runs along the text, as rows without padding, and the rest."""
        if not samples:
            raise UsageError("there are no samples to make a batch of: give at least one image-text sample.")
        texts = [self.text.render(self.limits.cleaned(sample.prompt)) for sample in samples]
        encoded = {  # a tokenizer that makes nothing of a text gives floats
            key: value.long() if key.endswith(("input_ids", "attention_mask")) else value
            for key, value in self._processed(samples, texts).items()
        }
        self.limits.cut_for_qformer(encoded)
        shape = encoded["input_ids"].shape
        real = encoded.get("attention_mask", torch.ones(shape)).bool()
        encoded["attention_mask"] = real.long()
        rows: dict[str, Rows] = {}
        rest: dict[str, Tensor] = {}
        for key, value in encoded.items():
            # Integers shaped (B, L, ...) as input_ids run along the text; a Q-Former's text is another one.
            if value.shape[:2] == shape and not value.is_floating_point() and "qformer" not in key:
                rows[key] = [line[keep] for line, keep in zip(value, real, strict=True)]
            else:
                rest[key] = value
        if check:
            self.limits.check([sample.id for sample in samples], [len(row) for row in rows["input_ids"]])
        return rows, rest

    def _processed(self, samples: Sequence[Sample], texts: list[str]) -> dict[str, Tensor]:
        """The processor's output. Raises UsageError that names the sample which it refuses."""
        images = self._images.load(samples)
        try:
            return self.text.process(images, texts)
        except ValueError as error:
            if len(samples) > 1:
                for sample, text in zip(samples, texts, strict=True):
                    self._processed([sample], [text])
                raise
            name, reason = samples[0].id or "(unnamed)", " ".join(str(error).split())[:200]
            raise UsageError(
                f"sample {name} is refused by the model's processor ({reason}): correct it, or take it out."
            ) from error

    def _padded(self, rows: dict[str, Rows], left: bool) -> dict[str, Tensor]:
        fill = {"input_ids": self.text.pad_id, "labels": IGNORED}
        return {key: pad(values, fill.get(key, 0), left) for key, values in rows.items()}

    def _drop_end_token(self, rows: dict[str, Rows]) -> None:
        """Cut the end token that some tokenizers put behind every text: here the answer follows."""
        ends = {self.text.appended, self.tokenizer.sep_token_id} - {None}
        for index, ids in enumerate(rows["input_ids"]):
            if len(ids) and ids[-1].item() in ends:
                for values in rows.values():
                    values[index] = values[index][:-1]

    def _append(self, rows: dict[str, Rows], index: int, target: Tensor) -> None:
        """Put one sample's target behind its prompt in every tensor that runs along the text."""
        prompt = rows["input_ids"][index]
        for key, values in rows.items():
            if key in ("input_ids", "labels"):
                tail = target
            elif key == "attention_mask":
                tail = torch.ones_like(target)
            elif key == "token_type_ids":
                tail = torch.full_like(target, self._target_type(prompt, values[index]))
            elif key == "mm_token_type_ids":  # 0 is text
                tail = torch.zeros_like(target)
            else:  # such as Mllama's cross_attention_mask: the target sees what the prompt's end sees
                tail = values[index][-1:].expand(len(target), *values[index].shape[1:])
            values[index] = torch.cat([values[index], tail])

    def _target_type(self, prompt: Tensor, types: Tensor) -> int:
        """1 (causal suffix) where image tokens have type 0 (PaliGemma), else 0 (plain text)."""
        image = prompt == self.text.image_token_id
        return int(bool(image.any()) and not bool(types[image].any()))


_POSITIONS = (
    8192  # of a batch: enough to keep any GPU busy, and what a block makes of them is a gigabyte at 7B
)
_MOST = 128
_MOST_ON_A_CPU = 16


def batch_size_for(
    vlm: "Vlm", samples: Sequence[Sample], device: torch.device, positions: int = _POSITIONS
) -> int:
    """How many samples to calibrate on at a time: so many that they come to `positions`. It depends on what is asked
    of the device, not on what it has free, so that the same run gives the same masks."""
    batcher = batcher_of(vlm)
    length = max(batcher.forwards([sample])[0]["input_ids"].shape[1] for sample in samples[:8])
    most = _MOST_ON_A_CPU if device.type == "cpu" else _MOST
    return max(1, min(most, positions // length, len(samples)))


def batches(vlm: "Vlm", samples: Sequence[Sample], batch_size: int = 16) -> list[dict[str, Tensor]]:
    """What a model's forward takes, for `ressa.prune` to calibrate on: images, prompts and targets as tensors.

    The targets are there so that both halves of an encoder-decoder see text; see `Batcher.training`. A dual encoder is
    given pictures and targets, as many forwards as it takes for both (`PairBatcher.forwards`).
    Raises UsageError for a sample without a target that needs one.
    """
    batcher = batcher_of(vlm)
    starts = range(0, len(samples), batch_size)
    return [inputs for start in starts for inputs in batcher.forwards(samples[start : start + batch_size])]


def batcher_of(vlm: "Vlm") -> "Batcher | PairBatcher":
    """What makes a model's inputs: of prompts and answers, or of pairs for one that embeds them or writes nothing."""
    if is_dual_encoder(vlm.model, vlm.processor) or not vlm.model.can_generate():
        return PairBatcher(vlm.model, vlm.processor)
    return Batcher(vlm.processor, vlm.model.config, getattr(vlm.model, "generation_config", None))


def along(values: Tensor, labels: Tensor) -> Tensor:
    """The positions of a model's outputs (batch, length, ...) that its labels (batch, L) run along: the last ones,
    where an image's stand in front that the text does not mark (GIT). Raises UsageError where there are too few."""
    if len(values) != len(labels) or values.shape[1] < labels.shape[1]:
        raise UsageError(
            f"The model's outputs {tuple(values.shape[:2])} do not run along its labels "
            f"{tuple(labels.shape)}: this family cannot be taught by its words."
        )
    return values[:, values.shape[1] - labels.shape[1] :]


def pad(rows: Rows, value: int, left: bool = False) -> Tensor:
    """Stack rows (L_i, ...) to (B, max L, ...), filling with `value` on one side."""
    length = max(len(row) for row in rows)
    batch = rows[0].new_full((len(rows), length, *rows[0].shape[1:]), value)
    for line, row in zip(batch, rows, strict=True):
        if left:
            line[length - len(row) :] = row
        else:
            line[: len(row)] = row
    return batch
