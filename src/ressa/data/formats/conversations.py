"""Conversations about pictures: LLaVA-Instruct and ShareGPT4V (`conversations`) and chats (`messages`).

LLaVA's files are lists of {id, image, conversations: [{from: human, value: "<image>\\n…"}, {from: gpt, value: …}]},
under any name; `image` is a path below a folder that holds coco/, gqa/, textvqa/, vg/ and so on, and is missing
where the conversation is text alone. Every answer is a target; `<image>` says where a picture stands.
"""

import re
from collections.abc import Mapping
from typing import Any

from ressa.data.sample import PICTURE, Picture, Sample
from ressa.data.values import field, fields, items, shown, text
from ressa.errors import UsageError

_MARK = re.compile(r"[ \t]*<image>[ \t]*\n?|\n?<image>")
LONGEST = 200_000  # characters of one turn: people ask assistants for whole programs
_ASKS = ("human", "user")
_ANSWERS = ("gpt", "assistant", "model")


def turns_of(entry: Mapping[str, Any]) -> list[Any] | None:
    """The turns of a record as they stand there; None where it has none."""
    found = entry.get("conversations", entry.get("messages"))
    return None if found is None else items(found, "the conversation")


def conversation(entry: Mapping[str, Any], pictures: tuple[Picture, ...], key: str) -> Sample | None:
    """The sample of a conversation; None where nobody answers."""
    asked: list[str] = []
    turns: list[tuple[str, str]] = []
    system = ""
    for turn in turns_of(entry) or []:
        said = fields(turn, "a turn")
        who = field(said, "from" if "from" in said else "role")
        words = _words(said.get("value", said.get("content")))
        if who in _ASKS:
            asked.append(words)
        elif who in _ANSWERS:
            if not asked:
                raise UsageError("its first turn is an answer")
            turns.append(("\n".join(asked), text(words, "an answer", longest=LONGEST).strip()))
            asked = []
        elif who == "system":
            system = words.strip()
        else:
            raise UsageError(
                f"a turn is from {shown(who) if not isinstance(who, str) else repr(who[:40])}, not human or gpt"
            )
    if not turns:
        return None
    if system:
        turns[0] = (f"{system}\n{turns[0][0]}", turns[0][1])
    marked = sum(question.count(PICTURE) for question, _ in turns)
    if marked > len(pictures):
        raise UsageError(f"it shows {marked} pictures and names {len(pictures)}")
    image = pictures[0] if len(pictures) == 1 else pictures or None
    (*earlier, (prompt, target)) = turns
    return Sample(image, prompt, target, key, earlier=tuple(earlier))


def _words(value: Any) -> str:
    """A turn's text, pictures marked."""
    if isinstance(value, list):  # of a chat: texts and pictures
        parts = (fields(each, "a part of a turn") for each in value)
        return "".join(
            PICTURE
            if part.get("type") in ("image", "image_url")
            else text(part.get("text"), "a turn", may_be_empty=True, longest=LONGEST)
            for part in parts
        ).strip()
    return _MARK.sub(PICTURE, text(value, "a turn", longest=LONGEST)).strip()
