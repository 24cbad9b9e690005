"""Before any work starts, every picture that it will show is opened, and every text is measured."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from PIL import Image

from ressa.data.faults import Faults
from ressa.data.images import what_is_wrong
from ressa.data.sample import AnySample, Sample, StoredPicture
from ressa.progress import bar
from ressa.warned import warn

if TYPE_CHECKING:
    from ressa.data.batcher import Batcher


TURN = 32  # tokens that a chat template writes around a turn, at most; what is longer is counted exactly


def stored(sample: Sample) -> list[StoredPicture]:
    """A sample's pictures that are in files, which may be damaged."""
    return [picture for picture in sample.images if not isinstance(picture, Image.Image)]


class PictureCheck:
    """Opens picture files, each once however often it is asked for; what cannot be used goes to `faults`."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self._problems: dict[StoredPicture, str | None] = {}

    def usable(self, samples: Sequence[AnySample]) -> list[AnySample]:
        """The samples whose pictures can be read, in order. A PIL image is taken for one that can."""
        self._open(picture for sample in samples for picture in stored(sample))
        return [
            sample for sample in samples if all(self._problems[picture] is None for picture in stored(sample))
        ]

    def _open(self, pictures: Iterable[StoredPicture]) -> None:
        new = sorted(set(pictures) - self._problems.keys(), key=str)
        if not new:
            return
        # Decoders let go of the interpreter, so threads are enough.
        pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
        try:
            with bar("Checking pictures", len(new)) as progress:
                for path, problem in zip(new, pool.map(what_is_wrong, new), strict=True):
                    self._problems[path] = problem
                    if problem is not None:
                        self.faults.add(str(path), "", problem)
                    progress.advance()
        finally:
            pool.shutdown(cancel_futures=True)  # an interruption does not wait for those that are left


def readable(
    samples: Sequence[AnySample], batcher: "Batcher", faults: Faults, *, room: int = 0
) -> list[AnySample]:
    """The samples whose texts the model can read, in order; the others go to `faults`.

    room: tokens that are to be generated behind each. What is taken out of a text, or read in part, is said.
    """
    if not samples:
        return []
    limits = batcher.limits
    marked = sum(any(limits.has_placeholder(text) for text in texts_of(each)) for each in samples)
    if marked:
        words = " or ".join(limits.placeholders)
        warn(
            f"Texts with {words} in them, which stands for a picture: {marked:,} of {len(samples):,}; it is taken out."
        )
    _say_what_a_qformer_misses({sample.prompt for sample in samples}, batcher)
    kept = []
    shortened = 0
    first, pictured = 0, False  # tokens of a sample: more than its template and a picture take
    for sample in samples:
        if (problem := batcher.problem(sample)) is not None:
            faults.add("", f"sample {sample.id}", problem)
            continue
        if any(not limits.cleaned(said) for _, said in sample.turns if said):
            faults.add("", f"sample {sample.id}", "its target is nothing but an image's placeholder")
            continue
        if limits.positions is not None and not pictured and (sample.images or not first):
            first, pictured = batcher.length(sample), bool(sample.images)
        # A token is at least a byte of text, so most samples need no tokenizer.
        text = sum(len(text.encode()) + TURN for text in texts_of(sample))
        most = first * max(1, len(sample.images)) + text + room
        problem = limits.too_long(batcher.length(sample) + room) if limits.too_long(most) else None
        if problem and sample.earlier and sample.target:
            shortened += 1
            while problem and sample.earlier:
                *earlier, (prompt, target) = sample.earlier
                sample = replace(sample, prompt=prompt, target=target, earlier=tuple(earlier))
                problem = limits.too_long(batcher.length(sample) + room)
        if problem:
            faults.add("", f"sample {sample.id}", problem)
        else:
            kept.append(sample)
    if shortened:
        many = f"{shortened:,} of {len(samples):,}"
        warn(f"Conversations longer than the model reads: {many}; their last turns are left out.")
    return kept


def texts_of(sample: Sample) -> list[str]:
    """All that is said in a sample."""
    return [text for turn in sample.turns for text in turn if text]


def _say_what_a_qformer_misses(prompts: Iterable[str], batcher: "Batcher") -> None:
    limit = batcher.limits.qformer
    if limit is None:
        return
    prompts = list(prompts)
    long = [prompt for prompt in prompts if len(prompt.encode()) > limit - 2]  # two tokens are its frame
    lengths = map(len, batcher.processor.qformer_tokenizer(long)["input_ids"]) if long else ()
    if missed := sum(length > limit for length in lengths):
        warn(
            f"Prompts longer than the {limit} tokens that the Q-Former reads: {missed:,} of {len(prompts):,}; their "
            "end reaches the language model only."
        )
