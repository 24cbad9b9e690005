"""How prompts and targets become a family's tokens.

Found by structure: whether the processor has a chat template, whether it writes the image placeholders itself
(tried once on a blank image), and what its tokenizer adds to a text.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from PIL import Image
from torch import Tensor

from ressa.data.ending import ANSWER, Ending, TemplateFailure, appended_token, find_endings, rendered
from ressa.data.sample import PICTURE
from ressa.data.untouched import untouched
from ressa.errors import UsageError

PROBE = "giraffe"  # a question that no template asks of its own accord
MEND_TEMPLATE = "mend it, or take it out of the model's folder to ask without one"


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
        self._check_template()

    def _check_template(self) -> None:
        """Raises UsageError for a chat template that fails, or leaves out the question or the image."""
        if not getattr(self.processor, "chat_template", None):
            return
        (text,) = self.segments([PROBE])
        if PROBE not in text:
            raise UsageError(f"The model's chat template leaves out the question: {MEND_TEMPLATE}.")
        shown = self.image_token is None or self.image_token in text
        if not shown and not self._image_tokens(text):  # Gemma 3's processor makes it of another token
            raise UsageError(
                f"The model's chat template leaves out the image ({self.image_token}): {MEND_TEMPLATE}."
            )

    def segments(self, questions: Sequence[str], pictures: int = 1) -> list[str]:
        """What the model reads before each answer: questions in the chat template or behind the image placeholders.

        questions: of each turn, in order; the last answer is the one to come. A picture stands where `PICTURE`
        does, or in front where these are not as many as the pictures. Raises UsageError where the chat template has
        no more than one turn.
        """
        asked = _placed(questions, pictures)
        if not getattr(self.processor, "chat_template", None):
            written = [
                "".join(self._placeholder if part is None else part for part in parts) for parts in asked
            ]
            return [written[0], *(f"\n{question}" for question in written[1:])]
        turns: list[dict[str, Any]] = []
        for place, parts in enumerate(asked):
            if place:
                said = [{"type": "text", "text": f"{ANSWER}{place}{ANSWER}"}]
                turns.append({"role": "assistant", "content": said})
            content = [
                {"type": "image"} if part is None else {"type": "text", "text": part} for part in parts
            ]
            turns.append({"role": "user", "content": content})
        try:
            text = rendered(self.processor, turns, add_generation_prompt=True)
        except TemplateFailure as error:
            if len(turns) == 1:
                raise UsageError(f"The model's chat template fails ({error}): {MEND_TEMPLATE}.") from None
            raise UsageError(
                f"the model's chat template refuses a conversation of several turns ({error}): leave it out."
            ) from None
        found = re.split(f"{ANSWER}\\d+{ANSWER}", text)
        if len(found) != len(questions):
            raise UsageError(
                "the model's chat template does not write earlier answers: leave conversations out."
            )
        return found

    def joined(self, segments: Sequence[str], answers: Sequence[str]) -> str:
        """Segments with the answers between them. answers: one fewer than the segments, or as many."""
        text = ""
        for place, segment in enumerate(segments):
            text += segment
            if place < len(answers):
                text += self._space(segment) + answers[place]
        return text

    def shows(self, segment: str) -> bool:
        """Whether there is a picture in what `segments` gave."""
        return self.image_token is not None and self.image_token in segment

    @cached_property
    def takes_several(self) -> bool:
        """Whether a sample may show several pictures: tried once, on two blank ones."""
        if self.image_token is None:
            return False
        one, two = (self._image_tokens(self.segments(["a"], count)[0], count) for count in (1, 2))
        return 0 < 2 * one <= two

    @cached_property
    def pads_pictures(self) -> bool:
        """Whether pixel values have a row a sample, whatever it shows, and not a row a picture: tried once."""
        if not self.takes_several:
            return False
        processed = self.process([[_blank(), _blank()]], self.segments(["a"], 2))
        pixels = processed.get("pixel_values")
        return pixels is not None and len(pixels) == 1

    @cached_property
    def reads_prompts(self) -> bool:
        """Whether the model reads words before it answers: tried once. TrOCR, Donut and Pix2Struct look at a picture
        alone, and their processors make labels of a text, or nothing."""
        try:
            return "input_ids" in self.processor(images=[_blank()], text=["a"], return_tensors="pt")
        except Exception:  # whatever it says, it wants something else of a text, so it reads texts
            return True

    @cached_property
    def _takes_lists(self) -> bool:
        """Whether the processor takes a list of pictures for each text, as most do: tried once (GOT-OCR2's takes a
        picture for each)."""
        return self._made([[_blank()]]) or not self._made([_blank()])

    def _made(self, images: list[Any]) -> bool:
        """Whether the processor makes something of pictures in this form."""
        try:
            self.processor(images=images, text=[f"{self.image_token or ''}a"], return_tensors="pt")
        except Exception:  # processors say in many ways that they take something else
            return False
        return True

    def process(self, images: list[list[Image.Image]], texts: list[str]) -> dict[str, Tensor]:
        """The processor's output for rendered texts: each with its images, or all without any."""
        if not self.reads_prompts:
            return dict(self.processor.image_processor([shown for (shown,) in images], return_tensors="pt"))
        options: dict[str, Any] = {"padding": True, "return_tensors": "pt"}
        bos = self.tokenizer.bos_token
        if bos and texts[0].startswith(bos):  # the chat template has written it already
            options["add_special_tokens"] = False
        had_no_padding = self.tokenizer.pad_token is None
        if had_no_padding:
            self.tokenizer.pad_token_id = self.pad_id
        try:
            with untouched(self.processor):
                if not any(images):
                    return dict(self.tokenizer(texts, **options))
                flat = all(len(shown) == 1 for shown in images) and not self._takes_lists
                given = [shown for (shown,) in images] if flat else images
                return dict(self.processor(images=given, text=texts, **options))
        finally:
            if had_no_padding:
                self.tokenizer.pad_token = None

    def processes_anything(self) -> bool:
        """Whether the processor takes a plain picture and a short question."""
        try:
            self.process([[Image.new("RGB", (336, 336))]], self.segments([PROBE]))
        except Exception:
            return False
        return True

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

    def _image_tokens(self, text: str, pictures: int = 1) -> int:
        """How many image tokens the processor makes of a text and blank images; 0 where it refuses."""
        try:
            ids = self.process([[_blank() for _ in range(pictures)]], [text])["input_ids"]
        except (
            ValueError,
            LookupError,
            TypeError,
            ArithmeticError,
            RuntimeError,
        ):  # it wants a placeholder, or fails
            return 0
        return int((ids == self.image_token_id).sum())

    def plain_ids(self, text: str) -> list[int]:
        """The ids of plain text, nothing before and behind it."""
        return self.tokenizer(text, add_special_tokens=False, return_attention_mask=False)["input_ids"]

    def target_ids(self, segments: Sequence[str], targets: Sequence[str]) -> list[list[int]]:
        """The ids of each target behind what stands before it, end token included.

        Decoder-only: a token may depend on what stands before it (a leading space, SentencePiece's "▁"), so
        the target is tokenised behind the segment's last character, whose own tokens are then cut off.
        """
        if self.encoder_decoder:
            rows = self.tokenizer(list(targets), return_attention_mask=False)["input_ids"]
        else:
            rows = self._behind([segment[-1:] for segment in segments], list(targets))
        return [self._ended(row) for row in rows]

    def earlier_ids(self, segment: str, answer: str) -> list[int]:
        """The ids of an answer behind its segment, another turn coming after it: what ends a turn included."""
        (row,) = self._behind([segment[-1:]], [answer])
        return [*row, *self.turn_end]

    def following_ids(self, segment: str) -> list[int]:
        """The ids of a segment that comes after an answer and what ends it."""
        if not self.turn_end or self.end is None:
            return self._tokenise(segment)
        bare = segment.lstrip()
        segment = bare.removeprefix(self.end.text) if bare.startswith(self.end.text) else segment
        row = self._tokenise(self.end.text + segment)
        length = len(self.turn_end)
        return row[length:] if row[:length] == self.turn_end else self._tokenise(segment)

    def anchored(self, segment: str, answer: str) -> list[int]:
        """The ids of an answer with the last of those before it, by which it is found in a conversation's ids."""
        before = self._tokenise(segment.rpartition("\n")[2] or segment)[-4:]
        return [*before, *self._behind([segment[-1:]], [answer])[0]]

    @cached_property
    def turn_end(self) -> list[int]:
        """What ends an answer in the middle of a conversation; nothing where there is no chat template."""
        if self.end is None or not getattr(self.processor, "chat_template", None):
            return []
        return self._tokenise(self.end.text)

    def _tokenise(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, return_attention_mask=False)["input_ids"]

    def _space(self, before: str) -> str:
        return "" if before[-1:].isspace() or not before else " "

    def _behind(self, anchors: list[str], targets: list[str]) -> list[list[int]]:
        def tokenise(texts: list[str]) -> list[list[int]]:
            return self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]

        spaces = [self._space(anchor) for anchor in anchors]
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


def _placed(questions: Sequence[str], pictures: int) -> list[list[str | None]]:
    """The parts of each question: texts, and None for a picture."""
    if sum(question.count(PICTURE) for question in questions) != pictures:
        bare = [question.replace(PICTURE, "") for question in questions]
        front: list[str | None] = [None] * pictures
        return [[*(front if not place else []), question] for place, question in enumerate(bare)]
    parts: list[list[str | None]] = []
    for question in questions:
        texts = question.split(PICTURE)
        between: list[str | None] = []
        for place, text in enumerate(texts):
            between += [*([None] if place else []), *([text] if text else [])]
        parts.append(between)
    return parts


def _blank() -> Image.Image:
    return Image.new("RGB", (32, 32))
