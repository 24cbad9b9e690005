"""What ends an answer: what a model's files say of it, which is not always one thing.

A chat template writes an end behind each answer (Llama 3's `<|eot_id|>`), a tokenizer names an end of text
(`<|end_of_text|>`), and the generation config lists where generation stops. Checkpoints in the wild disagree:
an end-of-turn token need not be flagged as special, and the tokenizer's eos may be a token that begins a turn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

ANSWER = "zebra"  # no template writes this of its own accord
TEMPLATE = "the chat template's end of a turn"


@dataclass(frozen=True)
class Ending:
    """One way to end an answer. ids: the tokens behind it, mostly one. text: as written. source: who says so."""

    ids: tuple[int, ...]
    text: str
    source: str

    def __str__(self) -> str:
        return f"{self.text} ({self.source})"


@dataclass(frozen=True)
class Endings:
    """All that a model's files call the end of an answer, the likeliest first; none where there is no such token.

    stops: the token ids at which generation stops, as configured. agreed: whether the first is certain: it is
    what stands behind answers, and generation stops there.
    """

    candidates: tuple[Ending, ...]
    stops: tuple[int, ...]
    agreed: bool


def stop_ids(config: Any, generation_config: Any = None) -> tuple[int, ...]:
    """Where generation stops: the generation config's end tokens or, where it names none, the model config's.

    A text config's separator counts too: BLIP stops there, whatever its end token is.
    """
    text = config.get_text_config()
    separator = getattr(text, "sep_token_id", None)
    own = () if separator is None else (separator,)
    for named in (generation_config, text, config):
        ids = getattr(named, "eos_token_id", None)
        if ids is not None and ids != []:
            return tuple(dict.fromkeys([*(ids if isinstance(ids, list | tuple) else [ids]), *own]))
    return own


def find_endings(processor: Any, stops: Sequence[int]) -> Endings:
    """What the chat template, the tokenizer and the configs say.

    processor: a transformers processor with a tokenizer. stops: `stop_ids` of its model.
    """
    tokenizer = processor.tokenizer
    by_config = [_single(tokenizer, stop, "where generation stops") for stop in stops]
    added = appended_token(tokenizer)
    own = tokenizer.eos_token_id if added is None else added
    by_tokenizer = [] if own is None else [_single(tokenizer, own, "the tokenizer's end of text")]
    written = _written(processor, stops)
    # The end is the first token there that is no plain text; Phi-3 writes <|end|> and then <|endoftext|>.
    ends = [token for token in written if token in stops or token in tokenizer.added_tokens_decoder]
    if ends and ends[0] in stops:
        return Endings((_single(tokenizer, ends[0], TEMPLATE),), tuple(stops), agreed=True)
    if written:
        found = [_end_of_turn(tokenizer, written, stops), *by_config, *by_tokenizer]
    elif own in stops or added is not None:
        found = [*by_tokenizer, *by_config]
    else:
        found = [*by_config, *by_tokenizer]
    candidates: dict[int, Ending] = {}
    for ending in found:
        candidates.setdefault(ending.ids[0], ending)
    return Endings(tuple(candidates.values()), tuple(stops), agreed=len(candidates) < 2)


def appended_token(tokenizer: Any) -> int | None:
    """The token that a tokenizer puts behind every text (T5's </s>, BERT's [SEP]), if it does."""
    plain, ids = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a")
    return ids[-1] if ids and ids[len(ids) - len(plain) :] != plain else None


def _single(tokenizer: Any, token: int, source: str) -> Ending:
    return Ending((token,), tokenizer.convert_ids_to_tokens(token) or str(token), source)


def _written(processor: Any, stops: Sequence[int]) -> list[int]:
    """The token ids that the chat template puts behind an answer, spaces and line breaks around them left out.

    Of a template that writes something only between two turns, what stops generation counts, the rest being the
    next turn's beginning.
    """
    if not getattr(processor, "chat_template", None):
        return []
    turns = [asked("question"), {"role": "assistant", "content": [{"type": "text", "text": ANSWER}]}]
    last = _behind(processor, turns)
    if last:
        return last
    return [token for token in _behind(processor, [*turns, asked("question")])[:1] if token in stops]


def _behind(processor: Any, turns: list[dict[str, Any]]) -> list[int]:
    try:
        text = rendered(processor, turns)
    except TemplateFailure:  # a template for questions only
        return []
    _, answer, behind = text.rpartition(ANSWER)
    return processor.tokenizer.encode(behind.strip(), add_special_tokens=False) if answer else []


class TemplateFailure(Exception):
    """What a chat template, which is a program, stumbled over."""


def rendered(processor: Any, turns: list[dict[str, Any]], **options: Any) -> str:
    """Chat turns in the processor's template. Raises TemplateFailure."""
    try:
        return processor.apply_chat_template(turns, tokenize=False, **options)
    except Exception as error:  # whatever its author wrote
        raise TemplateFailure(" ".join(str(error).split())[:200] or type(error).__name__) from error


def _end_of_turn(tokenizer: Any, written: list[int], stops: Sequence[int]) -> Ending:
    """The end that a template writes where generation does not stop at it: a token that was added to the
    vocabulary, flagged as special or not, or plain text, behind which comes what does stop generation."""
    added = [place for place, token in enumerate(written) if token in tokenizer.added_tokens_decoder]
    if added:
        written = written[: added[0] + 1]
    ids = tuple(written)
    if not added:
        ids += tuple(stops[:1])
    return Ending(ids, tokenizer.decode(written), TEMPLATE)


def asked(prompt: str) -> dict[str, Any]:
    """A chat turn that shows an image and asks."""
    return {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}
