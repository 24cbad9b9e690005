"""Words as LAVIS reads them, and captions cut in two, the first part to be continued: its prefix language modelling, on
which ECoFLaP and RESSA calibrate."""

import random
import re
from dataclasses import replace

from ressa.data.sample import AnySample

MOST_WORDS = 50


def cut_caption(sample: AnySample, rng: random.Random) -> AnySample:
    """The sample with the beginning of its caption as prompt and the rest as target.

    The cut falls behind any of its letters up to half of them, a word's middle included. The caption is read as by
    LAVIS's `blip_caption`: lower case, without punctuation, 50 words at most. One of a single letter stays whole.
    """
    text = read_caption(sample.target or "")
    if len(text) < 2:
        return sample
    place = rng.randint(1, len(text) // 2)
    return replace(sample, prompt=text[:place], target=text[place:])


def read_caption(text: str) -> str:
    """A caption as LAVIS's `blip_caption` has it."""
    words = (
        re.sub(r"\s{2,}", " ", re.sub(r"([.!\"()*#:;~])", " ", text.lower()))
        .rstrip("\n")
        .strip(" ")
        .split(" ")
    )
    return " ".join(words[:MOST_WORDS])


def read_question(text: str) -> str:
    """A question as LAVIS's `blip_question` has it: lower case, without punctuation but the ?, 50 words at most."""
    words = re.sub(r"([.!\"()*#:;~])", "", text.lower()).rstrip(" ").split(" ")
    return " ".join(words[:MOST_WORDS])
