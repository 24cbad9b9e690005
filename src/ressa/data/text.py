"""How prompts and targets become a family's tokens.

Found by structure: whether the processor has a chat template, whether it writes the image placeholders itself
(tried once on a blank image), and what its tokenizer adds to a text.
"""

from functools import cached_property
from typing import Any

from jinja2 import TemplateError
from PIL import Image
from torch import Tensor


class Text:
    """The text side of a processor.

    Args:
        processor: a transformers processor with a tokenizer.
        encoder_decoder: whether targets go to a decoder of their own.
        eos_token_id: the end token by the model's config, used when the tokenizer names none.
    """

    eos_id: int | None  # what ends a target; None where the family has no such token

    def __init__(self, processor: Any, encoder_decoder: bool, eos_token_id: int | list[int] | None) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.encoder_decoder = encoder_decoder
        by_config = eos_token_id[0] if isinstance(eos_token_id, list) else eos_token_id
        eos = self.tokenizer.eos_token_id
        self.eos_id = by_config if eos is None else eos
        # Some tokenizers (Llama's) have no padding token: anything will do, since padding is masked.
        pad = self.tokenizer.pad_token_id
        self.pad_id: int = pad if pad is not None else self.eos_id or 0
        token = getattr(processor, "image_token", None)
        self.image_token: str | None = getattr(token, "content", token)
        self.image_token_id: int = -1  # no token's id
        if self.image_token is not None:
            self.image_token_id = self.tokenizer.convert_tokens_to_ids(self.image_token)
        if getattr(processor, "chat_template", None):
            self.eos_id = self._end_of_turn(self.eos_id)

    def render(self, prompt: str) -> str:
        """The text for the processor: the prompt in the chat template or behind the image placeholder."""
        if getattr(self.processor, "chat_template", None):
            return self.processor.apply_chat_template(
                [_asked(prompt)], tokenize=False, add_generation_prompt=True
            )
        return f"{self._placeholder}{prompt}"

    def _end_of_turn(self, eos_id: int | None) -> int | None:
        """The special token that the chat template puts behind an answer (Gemma: <end_of_turn>)."""
        said = {"role": "assistant", "content": [{"type": "text", "text": "answer"}]}
        try:
            text = self.processor.apply_chat_template([_asked("question"), said], tokenize=False)
        except (ValueError, TemplateError):  # a template for questions only
            return eos_id
        behind = self.tokenizer.encode(text.rpartition("answer")[2].strip(), add_special_tokens=False)
        return behind[0] if behind and behind[0] in self.tokenizer.all_special_ids else eos_id

    def process(self, images: list[Image.Image], texts: list[str]) -> dict[str, Tensor]:
        """The processor's output for rendered texts, one image each."""
        options: dict[str, Any] = {"padding": True, "return_tensors": "pt"}
        bos = self.tokenizer.bos_token
        if bos and texts[0].startswith(bos):  # the chat template has written it already
            options["add_special_tokens"] = False
        had_no_padding = self.tokenizer.pad_token is None
        if had_no_padding:
            self.tokenizer.pad_token_id = self.pad_id
        try:
            return dict(self.processor(images=[[image] for image in images], text=texts, **options))
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
            ids = self.process([Image.new("RGB", (32, 32))], [text])["input_ids"]
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
        if self.eos_id is None or (ids and ids[-1] == self.eos_id):
            return ids
        return [*ids, self.eos_id]


def _asked(prompt: str) -> dict[str, Any]:
    """A chat turn that shows an image and asks."""
    return {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}
