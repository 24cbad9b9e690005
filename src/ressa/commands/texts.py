"""Plain text that calibration and repair see beside pictures: from files, or what the dense model writes."""

import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ressa.cache import cache_folder
from ressa.data.batcher import Batcher
from ressa.data.inputs import batcher_of
from ressa.data.own_text import own_text
from ressa.data.plain_text import english, passages, read_text
from ressa.data.sample import Sample
from ressa.errors import UsageError
from ressa.files import check_writable, read_json, write_json
from ressa.locks import held
from ressa.processes import is_first, meet
from ressa.progress import say
from ressa.provenance import fingerprint, fingerprint_weights, versions
from ressa.recipe import PruneRecipe, RepairRecipe
from ressa.recipe.text import AUTO, ENGLISH, OWN, texts_beside
from ressa.warned import warn

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from ressa.checkpoint import Vlm

_LEAST_ROOM = 4 << 30  # bytes beside the model, for the keys and values of what is being written
_BEGINNING = 20_000  # characters of a text in which unknown tokens are counted
_FEW, _MOST = 0.02, 0.5  # of its tokens may be unknown: where nobody asked for it, and where somebody did
_LOOKED_AT = 256  # texts, for what they repeat
_NARROW = 0.1  # of their triples of words, from which on it is said


def texts_for(
    recipe: PruneRecipe | RepairRecipe,
    dense: "Vlm",
    device: "torch.device",
    work: Path,
    beside: Sequence[Sample],
) -> list[Sample]:
    """The texts a recipe asks for, as samples; none where it asks for none.

    dense: the model before pruning. Its own text is written where it is, or on `device`; it is kept in `work`, so that
    a run that goes on has the same. beside: the samples with pictures; it is said where its own text repeats these.
    Raises UsageError where there is no such text, or the model reads none alone.
    """
    if recipe.text is None:
        return []
    batcher, kind = batcher_of(dense), type(dense.model).__name__
    if (reason := _unread(batcher, kind)) is None and recipe.text != OWN:
        tokenizer = dense.processor.tokenizer
        text = english() if recipe.text in (ENGLISH, AUTO) else read_text(recipe.text)
        unknown = _unknown(tokenizer, text)
        if unknown > (_FEW if recipe.text == AUTO else _MOST):
            reason = f"{100 * unknown:.0f} % of this text's tokens are unknown to {kind}"
    if reason is not None and recipe.text == AUTO:
        say(f"No plain text is taken beside the pictures: {reason}.")
        return []
    if reason is not None:
        raise UsageError(f"{reason}: leave out --text.")
    if recipe.text != OWN:
        found = passages(text, tokenizer, recipe.text_samples, recipe.text_tokens, recipe.seed)
    else:
        note = work / "text.json"
        if is_first() and read_json(note) is None:
            written = own_texts(dense, device, recipe.text_samples, recipe.text_tokens, recipe.seed)
            write_json(note, {"texts": written})
        meet(device)
        found = read_json(note)["texts"]
        _warn_of_narrow(found, beside)
    samples = [Sample(None, "", text, f"text {number}") for number, text in enumerate(found) if text.strip()]
    if not samples:
        raise UsageError("The model wrote nothing: give --text a text file instead.")
    return samples


def _unread(batcher: object, kind: str) -> str | None:
    """Why a model reads no plain text."""
    if not isinstance(batcher, Batcher):
        return f"{kind} tells which text belongs to a picture, and plain text to none"
    plain = batcher.problem(Sample(None, "", "text")) is None
    return None if plain else f"{kind} reads no plain text without a picture"


def _unknown(tokenizer: "PreTrainedTokenizerBase", text: str) -> float:
    """The share of tokens, of the text's beginning, that stand for what the tokenizer does not know."""
    ids = tokenizer(text[:_BEGINNING], add_special_tokens=False, verbose=False)["input_ids"]
    return ids.count(tokenizer.unk_token_id) / max(1, len(ids)) if tokenizer.unk_token_id is not None else 0.0


def _warn_of_narrow(texts: Sequence[str], samples: Sequence[Sample]) -> None:
    share = repeated(texts[:_LOOKED_AT], samples)
    if share >= _NARROW:
        warn(
            f"What the model writes is narrow: {100 * share:.0f} % of its triples of words are the samples' own, so "
            "that it keeps little of what else the model knows of language; give real text (--text english, or a file)."
        )


def repeated(texts: Sequence[str], samples: Sequence[Sample]) -> float:
    """The share of the texts' triples of words in a row that occur in the samples' prompts or targets."""
    known = {
        triple
        for sample in samples
        for turn in sample.turns
        for part in turn
        for triple in _triples(part or "")
    }
    found = [triple in known for text in texts for triple in _triples(text)]
    return sum(found) / max(1, len(found))


def _triples(text: str) -> Iterator[tuple[str, str, str]]:
    words = re.findall(r"\w+", text.lower())
    return zip(words, words[1:], words[2:], strict=False)


def mixed(samples: Sequence[Sample], texts: Sequence[Sample], share: float, seed: int) -> list[Sample]:
    """Samples and texts in a random order, in which texts have this share; they are repeated as often as that takes."""
    if not texts or not share:
        return list(samples)
    count = texts_beside(len(samples), share)
    together = [*samples, *(texts[number % len(texts)] for number in range(count))]
    random.Random(seed).shuffle(together)
    return together


def own_texts(dense: "Vlm", device: "torch.device", count: int, tokens: int, seed: int) -> list[str]:
    """What the dense model writes where it is, or on `device`; kept in ressa's cache, as every pruning and repair of a
    model wants the same. While one process writes, others wait for what it writes."""
    model = dense.model
    decides = {"count": count, "tokens": tokens, "seed": seed, "device": device.type, "versions": versions()}
    decides["weights"] = fingerprint_weights(model.state_dict().values())
    place = cache_folder() / "texts" / f"{fingerprint([json.dumps(decides, sort_keys=True)])}.json"
    try:
        check_writable(place)
    except UsageError:  # a machine that keeps nothing
        return _written(dense, device, count, tokens, seed)
    with held(place, wait=True):
        if (kept := read_json(place)) is not None:
            return kept["texts"]
        texts = _written(dense, device, count, tokens, seed)
        write_json(place, {"texts": texts, **decides})
    return texts


def _written(dense: "Vlm", device: "torch.device", count: int, tokens: int, seed: int) -> list[str]:
    import torch

    from ressa.checkpoint import size_of

    model, home = dense.model, dense.model.device
    if device.type == "cuda" and home.type != "cuda":
        if size_of(model) + _LEAST_ROOM > torch.cuda.mem_get_info(device)[0]:
            raise UsageError(
                "The model does not fit on the GPU as a whole, so that it would write text for hours: give --text a "
                "text file instead."
            )
        model.to(device)
    try:
        return own_text(model, dense.processor.tokenizer, count, tokens, seed=seed)
    finally:
        if model.device != home:
            model.to(home)
