"""How prompts and targets become a family's tokens.

Found by structure: whether the processor has a chat template, whether it writes the image placeholders itself
(tried once on a blank image), and what its tokenizer adds to a text.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from PIL import Image
from torch import Tensor

from ressa.data.ending import Ending, appended_token, asked, find_endings


class Text:
    """The text side of a processor.

    Args:
        processor: a transformers processor with a tokenizer.
        encoder_decoder: whether targets go to a decoder of their own.
        stops: the token ids at which the model's generation stops (`stop_ids`).
        end: how answers end; by default the likeliest of what the files say.
    """

    def __init__(
        self, processor: Any, encoder_decoder: bool, stops: Sequence[int] = (), end: Ending | None = None
    ) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.encoder_decoder = encoder_decoder
        self.endings = find_endings(processor, stops)
        # None where the family has no such token.
        self.end = end or next(iter(self.endings.candidates), None)
        self.appended = appended_token(self.tokenizer)
        # Some tokenizers (Llama's) have no padding token: anything will do, since padding is masked.
        pad = self.tokenizer.pad_token_id
        self.pad_id: int = pad if pad is not None else self.end.ids[-1] if self.end else 0
        token = getattr(processor, "image_token", None)
        self.image_token: str | None = getattr(token, "content", token)
        self.image_token_id: int = -1  # no token's id
        if self.image_token is not None:
            self.image_token_id = self.tokenizer.convert_tokens_to_ids(self.image_token)

    def render(self, prompt: str) -> str:
        """The text for the processor: the prompt in the chat template or behind the image placeholder."""
        if getattr(self.processor, "chat_template", None):
            return self.processor.apply_chat_template(
                [asked(prompt)], tokenize=False, add_generation_prompt=True
            )
        return f"{self._placeholder}{prompt}"

    def process(self, images: list[list[Image.Image]], texts: list[str]) -> dict[str, Tensor]:
        """The processor's output for rendered texts, each with its images."""
        options: dict[str, Any] = {"padding": True, "return_tensors": "pt"}
        bos = self.tokenizer.bos_token
        if bos and texts[0].startswith(bos):  # the chat template has written it already
            options["add_special_tokens"] = False
        had_no_padding = self.tokenizer.pad_token is None
        if had_no_padding:
            self.tokenizer.pad_token_id = self.pad_id
        try:
            return dict(self.processor(images=images, text=texts, **options))
        finally:
            if had_no_padding:
                self.tokenizer.pad_token = None

    @cached_property
    def _placeholder(self) -> str:
        """What marks the image in front of a prompt: nothing where the processor does it alone (BLIP-2).

        PaliGemma's processor does it too but wants it done, and says so at every call.
        """
        if self.image_token is None:
            return ""
        alone = self._image_tokens("a")
        if not alone:
            return f"{self.image_token}\n"
        return self.image_token if self._image_tokens(f"{self.image_token}a") == alone else ""

    def _image_tokens(self, text: str) -> int:
        """How many image tokens the processor makes of a text and a blank image; 0 where it refuses."""
        try:
            ids = self.process([[Image.new("RGB", (32, 32))]], [text])["input_ids"]
        except (ValueError, IndexError, RuntimeError):  # so says a processor that wants a placeholder
            return 0
        return int((ids == self.image_token_id).sum())

    def target_ids(self, prompts: list[str], targets: list[str]) -> list[list[int]]:
        """The ids of each target behind its prompt, end token included.

        Decoder-only: a token may depend on what stands before it (a leading space, SentencePiece's "▁"), so
        the target is tokenised behind the prompt's last character, whose own tokens are then cut off.
        """
        if self.encoder_decoder:
            rows = self.tokenizer(targets, return_attention_mask=False)["input_ids"]
        else:
            last = {prompt: self.render(prompt)[-1:] for prompt in set(prompts)}
            rows = self._behind([last[prompt] for prompt in prompts], targets)
        return [self._ended(row) for row in rows]

    def _behind(self, anchors: list[str], targets: list[str]) -> list[list[int]]:
        def tokenise(texts: list[str]) -> list[list[int]]:
            return self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]

        spaces = ["" if anchor.isspace() or not anchor else " " for anchor in anchors]
        joined = tokenise(
            [a + space + target for a, space, target in zip(anchors, spaces, targets, strict=True)]
        )
        heads = {anchor: tokenise([anchor])[0] for anchor in set(anchors)}
        rows = []
        for anchor, target, row in zip(anchors, targets, joined, strict=True):
            head = heads[anchor]
            if row[: len(head)] == head:
                rows.append(row[len(head) :])
            else:  # the anchor merged with the target: tokenise the target alone
                rows.append(tokenise([target])[0])
        return rows

    def _ended(self, ids: list[int]) -> list[int]:
        if self.end is None:
            return ids
        end = list(self.end.ids)
        if ids[-len(end) :] == end:
            return ids
        if self.encoder_decoder and ids and ids[-1] == self.appended:  # which is not what ends an answer
            ids = ids[:-1]
        return [*ids, *end]

    def stopping(self) -> dict[str, Any]:
        """What `generate` must be told to stop where answers end; nothing where the model's configs say it."""
        if self.end is None or self.end.ids[0] in self.endings.stops:
            return {}
        if len(self.end.ids) > 1:
            return {"stop_strings": [self.end.text], "tokenizer": self.tokenizer}
        return {"eos_token_id": [*self.endings.stops, *self.end.ids]}

    def read(self, generated: list[list[int]]) -> list[str]:
        """Generated ids as text, without special tokens and without the end, flagged as special or not."""
        ends = {*self.endings.stops, self.tokenizer.pad_token_id, *(self.end.ids[-1:] if self.end else ())}
        rows = []
        for ids in generated:
            length = len(ids)
            while length and ids[length - 1] in ends:
                length -= 1
            rows.append(ids[:length])
        texts = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        if self.end is not None and len(self.end.ids) > 1:
            texts = [text.partition(self.end.text)[0] for text in texts]
        return [text.strip() for text in texts]
