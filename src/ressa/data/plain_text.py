"""Plain text from files: what a language model reads that is about no picture."""

import html
import lzma
import random
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from ressa.errors import UsageError
from ressa.warned import warn

KINDS = (".txt", ".md", ".html")
MOST = 64 * 2**20  # bytes that are read, of all files together


def read_text(source: str | Path) -> str:
    """The text of a file, or of all text and HTML files of a folder in the order of their names, markup taken away and
    spaces made one; of more than 64 MiB the beginning.

    Raises UsageError where there is none.
    """
    source = Path(source)
    if source.is_dir():
        files = sorted(path for path in source.rglob("*") if path.suffix in KINDS and path.is_file())
    elif source.is_file():
        files = [source]
    else:
        raise UsageError(f"There is no text file or folder {source}: name one that exists.")
    parts: list[str] = []
    left = MOST
    for file in files:
        with file.open("rb") as opened:
            raw = opened.read(left)
        left -= len(raw)
        content = raw.decode("utf-8-sig", errors="replace")
        if file.suffix == ".html":
            content = re.sub(r"(?s)<(script|style|head)\b.*?</\1>|<[^>]*>", " ", content)
            content = html.unescape(content)
        parts.append(re.sub(r"\s+", " ", content).strip())
        if not left:
            break
    if not any(parts):
        raise UsageError(f"There is no text in {source}: name a {', '.join(KINDS)} file or a folder of them.")
    return "\n\n".join(part for part in parts if part)


def english() -> str:
    """A million words of English prose in the public domain: speeches and a novel (data/english/README.md)."""
    kept = files("ressa.data").joinpath("english", "prose.txt.xz").read_bytes()
    return lzma.decompress(kept).decode("utf-8")


def passages(text: str, tokenizer: Any, count: int, tokens: int, seed: int = 0) -> list[str]:
    """`count` passages of `tokens` tokens each that do not overlap, drawn with a seed, in the text's order.

    Raises UsageError where the text has not even one; of a text that has fewer, all are given, and that is said.
    """
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets = found["offset_mapping"]
    starts = range(0, len(offsets) - tokens + 1, tokens)
    if not starts:
        raise UsageError(f"The text has {len(offsets)} tokens, fewer than a passage of {tokens}: give more.")
    if len(starts) < count:
        warn(f"{count} passages of {tokens} tokens were asked for; the text has {len(starts)}.")
    drawn = sorted(random.Random(seed).sample(starts, min(count, len(starts))))
    return [text[offsets[start][0] : offsets[start + tokens - 1][1]] for start in drawn]
