"""Samples to model inputs, for any image-text family: prompt, image placeholders, padding and label masking.

What differs between families is found by structure: whether the language model is an encoder-decoder (its
config), how prompts and targets become tokens (`data/text.py`), and which of the processor's outputs run
along the text (their shape).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from ressa.data.ending import Ending, stop_ids
from ressa.data.images import ImageCache
from ressa.data.limits import Limits
from ressa.data.remembering import with_memory
from ressa.data.rows import IGNORED, Rows, pad
from ressa.data.sample import AnySample, Sample
from ressa.data.text import Text
from ressa.errors import UsageError

REMEMBERED = 4096  # prompts


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
        # Those whose images are no part of the text, and Q-Formers, whose forward asks for pixels.
        self.needs_picture = (
            self.text.image_token is None or getattr(config, "qformer_config", None) is not None
        )
        self._rendered: dict[tuple[str, int], list[str]] = {}
        self._images = ImageCache()

    def training(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Inputs with `labels`, for a forward pass that returns the loss of the targets.

        Encoder-decoder: `input_ids` (B, L) hold the prompt, where the model reads one, `labels` (B, T) the target and
        its end token, −100 in the padding; `decoder_attention_mask` (B, T) marks the target. Earlier turns are a part
        of the prompt: `apart` makes samples of them. Decoder-only: `input_ids` (B, L) hold prompts, targets and what
        ends them, padded on the right; `labels` (B, L) are −100 everywhere but on answers, those of earlier turns
        included, and their ends. Plain text is all label, and nothing ends it. Raises UsageError when there are no
        samples or one has no target.
        """
        return self._learned(samples)

    def _learned(self, samples: Sequence[Sample], check: bool = True) -> dict[str, Tensor]:
        """`training`; check: whether what is too long is refused."""
        targets = self.targets(samples)
        names = [sample.id for sample in samples] if check else []
        self.limits.check(names, [len(target) for target in targets][: len(names)])
        if self.encoder_decoder:
            rows, rest = self._encode(samples, [self._asked(sample) for sample in samples], check)
            batch = self._padded(rows, left=False) | rest
            batch["labels"] = pad(targets, IGNORED)
            batch["decoder_attention_mask"] = (batch["labels"] != IGNORED).long()
            return batch
        heads = [self._head(sample) for sample in samples]
        texts = [self.text.joined(segments[:read], answers[: read - 1]) for segments, answers, read in heads]
        rows, rest = self._encode(samples, texts, check)
        self._drop_end_token(rows)
        rows["labels"] = [torch.full_like(row, IGNORED) for row in rows["input_ids"]]
        for index, (sample, (segments, answers, read)) in enumerate(zip(samples, heads, strict=True)):
            self._learn(rows, index, sample.id, segments[:read], answers[: read - 1])
            for segment, answer, following in zip(
                segments[read - 1 :], answers[read - 1 :], segments[read:], strict=False
            ):
                self._append(rows, index, torch.tensor(self.text.earlier_ids(segment, answer)))
                self._append(rows, index, torch.tensor(self.text.following_ids(following)), learn=False)
            self._append(rows, index, targets[index])
        self.limits.check(names, [len(row) for row in rows["input_ids"]][: len(names)])
        return self._padded(rows, left=False) | rest

    def apart(self, samples: Sequence[AnySample]) -> list[AnySample]:
        """The samples as this model can learn all of their answers: where it is an encoder-decoder, one a turn."""
        if not self.encoder_decoder or not any(sample.earlier for sample in samples):
            return list(samples)
        found = []
        for sample in samples:
            turns = sample.turns
            for place, (prompt, target) in enumerate(turns):
                found.append(replace(sample, prompt=prompt, target=target, earlier=sample.earlier[:place]))
        return found

    def problem(self, sample: Sample) -> str | None:
        """Why the model cannot look at such a sample, in a few words; None where it can."""
        count = len(sample.images)
        if count == 0 and self.needs_picture:
            return "shows no picture, and this model reads no text without one"
        if sample.plain and self.encoder_decoder:
            return "is plain text, and this model continues none"
        if count > 1 and not self.text.takes_several:
            return f"shows {count} pictures, and this model takes one"
        return None

    def forwards(self, samples: Sequence[Sample]) -> list[dict[str, Tensor]]:
        """The inputs of each forward that learning from such samples takes: one."""
        return [self.training(samples)]

    def generation(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Inputs for `model.generate`: the prompts, padded on the left for decoder-only language models.

        Where `pads_prompts` is False, hand in prompts of one length (`alike`).
        """
        rows, rest = self._encode(samples, [self._asked(sample) for sample in samples])
        if not self.encoder_decoder and self.pads_prompts:
            self._drop_end_token(rows)
        return self._padded(rows, left=not self.encoder_decoder) | rest

    def alike(self, samples: Sequence[Sample]) -> list[list[int]]:
        """Positions of the samples in groups that `generation` can take together, each in order."""
        if self.pads_prompts:
            return [list(range(len(samples)))]
        groups: dict[int, list[int]] = {}
        for index, sample in enumerate(samples):
            groups.setdefault(len(self.tokenizer.encode(self._asked(sample))), []).append(index)
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
        before = [""] * len(samples) if self.encoder_decoder else [self._last(sample) for sample in samples]
        rows = self.text.target_ids(before, texts)
        return [
            torch.tensor(self.text.plain_ids(text) if sample.plain else row)
            for sample, text, row in zip(samples, texts, rows, strict=True)
        ]

    def stopping(self) -> dict[str, Any]:
        """What `model.generate` must be told to stop where answers end; nothing where its configs say it."""
        return self.text.stopping()

    def length(self, sample: Sample) -> int:
        """Tokens of a sample where the model needs most positions: those of its image and its target count."""
        if sample.target and sample.earlier and not self.encoder_decoder:
            return self._learned([sample], check=False)["input_ids"].shape[1]
        rows, _ = self._encode([sample], [self._asked(sample)], check=False)
        if sample.target and not self.encoder_decoder:
            self._drop_end_token(rows)
        prompt = len(rows["input_ids"][0]) if rows else 0
        target = len(self.targets([sample])[0]) if sample.target else 0
        return max(prompt, target) if self.encoder_decoder else prompt + target

    def decode(self, generated: Tensor, inputs: dict[str, Tensor]) -> list[str]:
        """The new text in what `generate` returned, without special tokens.

        generated: (B, L) ids. Families differ in whether the prompt comes back in front, as it was or with
        its first token replaced (BLIP): it is cut where it does.
        """
        if "input_ids" not in inputs:
            return self._texts(generated)
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

    # -- the text -----------------------------------------------------------------------------------------

    def _segments(self, sample: Sample) -> tuple[list[str], list[str]]:
        """What stands before each answer of a sample, and the earlier answers."""
        if sample.plain:
            return [""], []
        if not sample.earlier:
            key = (sample.prompt, len(sample.images))
            if key not in self._rendered:
                if len(self._rendered) > REMEMBERED:
                    self._rendered.clear()
                self._rendered[key] = self.text.segments([self.limits.cleaned(sample.prompt)], key[1])
            return self._rendered[key], []
        questions = [self.limits.cleaned(asked) for asked, _ in sample.turns]
        answers = [self.limits.cleaned(said.strip()) for _, said in sample.earlier]
        return self.text.segments(questions, len(sample.images)), answers

    def _asked(self, sample: Sample) -> str:
        """Everything before the last answer."""
        return self.text.joined(*self._segments(sample))

    def _last(self, sample: Sample) -> str:
        """What stands before the last answer, since the one before it."""
        return self._segments(sample)[0][-1]

    def _head(self, sample: Sample) -> tuple[list[str], list[str], int]:
        """Segments and earlier answers, and how many segments the processor has to read: up to the last picture."""
        segments, answers = self._segments(sample)
        shown = [place for place, segment in enumerate(segments) if self.text.shows(segment)]
        return segments, answers, max(shown, default=0) + 1

    def _learn(
        self, rows: dict[str, Rows], index: int, name: str, segments: list[str], answers: list[str]
    ) -> None:
        """Label the answers that stand before a later picture, where they are in what the processor made."""
        ids, start = rows["input_ids"][index].tolist(), 0
        for segment, answer in zip(segments, answers, strict=False):
            sought = self.text.anchored(segment, answer)
            own = len(sought) - len(self.text.anchored(segment, ""))
            found = next(
                (
                    at
                    for at in range(start, len(ids) - len(sought) + 1)
                    if ids[at : at + len(sought)] == sought
                ),
                None,
            )
            if found is None:
                raise UsageError(
                    f"sample {name or '(unnamed)'}: an answer cannot be told from what it stands among: leave it out."
                )
            start = found + len(sought)
            ending = self.text.turn_end
            end = start + len(ending) * (ids[start : start + len(ending)] == ending)
            rows["labels"][index][start - own : end] = rows["input_ids"][index][start - own : end]

    # -- the tensors --------------------------------------------------------------------------------------

    def _encode(
        self, samples: Sequence[Sample], texts: list[str], check: bool = True
    ) -> tuple[dict[str, Rows], dict[str, Tensor]]:
        """The processor's output: what runs along the text, as rows without padding, and the rest.

        Samples that show nothing have rows of text alone; of the rest they have zeros where every sample has a row.
        """
        if not samples:
            raise UsageError("there are no samples to make a batch of: give at least one image-text sample.")
        for sample in samples:
            if (problem := self.problem(sample)) is not None:
                raise UsageError(f"sample {sample.id or '(unnamed)'} {problem}: leave it out.")
        seeing = [place for place, sample in enumerate(samples) if sample.images]
        blind = [place for place, sample in enumerate(samples) if not sample.images]
        rows: dict[str, Rows] = {}
        rest: dict[str, Tensor] = {}
        for places in (seeing, blind):
            if places:
                some, more = self._split(
                    [samples[place] for place in places], [texts[place] for place in places]
                )
                for key, values in some.items():
                    whole = rows.setdefault(key, [torch.empty(0)] * len(samples))
                    for place, value in zip(places, values, strict=True):
                        whole[place] = value
                rest |= more
        if blind and seeing:
            self._fill(rows, rest, seeing, blind)
        if check and rows:
            self.limits.check([sample.id for sample in samples], [len(row) for row in rows["input_ids"]])
        return rows, rest

    def _fill(
        self, rows: dict[str, Rows], rest: dict[str, Tensor], seeing: list[int], blind: list[int]
    ) -> None:
        """Zeros for what samples without a picture have nothing of."""
        for values in rows.values():
            like = values[seeing[0]]
            for place in blind:
                if len(values[place]) == 0:
                    values[place] = like.new_zeros(len(rows["input_ids"][place]), *like.shape[1:])
        if self.text.pads_pictures:
            for key, value in rest.items():
                if len(value) == len(seeing):
                    rest[key] = value.new_zeros(len(seeing) + len(blind), *value.shape[1:])
                    rest[key][seeing] = value

    def _split(
        self, samples: Sequence[Sample], texts: list[str]
    ) -> tuple[dict[str, Rows], dict[str, Tensor]]:
        """Samples that all show something or all nothing."""
        if not self.text.reads_prompts:
            return {}, self._processed(samples, texts)
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
        return rows, rest

    def _processed(self, samples: Sequence[Sample], texts: list[str]) -> dict[str, Tensor]:
        """The processor's output. Raises UsageError that names the sample which it refuses."""
        images = self._images.load(samples)
        try:
            return self.text.process(images, texts)
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            if len(samples) > 1:
                for sample, text in zip(samples, texts, strict=True):
                    self._processed([sample], [text])
                raise
            reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
            if not self.text.processes_anything():
                raise UsageError(
                    f"The model's processor fails on any picture ({reason}): mend its files, or fetch them anew."
                ) from error
            raise UsageError(
                f"sample {samples[0].id or '(unnamed)'} is refused by the model's processor ({reason}): correct it, "
                "or take it out."
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

    def _append(self, rows: dict[str, Rows], index: int, target: Tensor, learn: bool = True) -> None:
        """Put more ids behind one sample's prompt, in every tensor that runs along the text."""
        prompt = rows["input_ids"][index]
        for key, values in rows.items():
            if key in ("input_ids", "labels"):
                tail = target if learn or key == "input_ids" else torch.full_like(target, IGNORED)
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
