"""Plain text that calibration and repair see beside pictures: from files, or what the dense model writes."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ressa.data.batcher import Batcher, batcher_of
from ressa.data.own_text import own_text
from ressa.data.plain_text import passages, read_text
from ressa.data.sample import Sample
from ressa.errors import UsageError
from ressa.files import read_json, write_json
from ressa.processes import is_first, meet
from ressa.recipe import PruneRecipe, RepairRecipe
from ressa.recipe.text import OWN

if TYPE_CHECKING:
    import torch

    from ressa.checkpoint import Vlm

_CACHE = 4 << 30  # bytes of keys and values while texts are written
_MOST, _MOST_ON_A_CPU = 512, 16  # texts written at a time


def texts_for(
    recipe: PruneRecipe | RepairRecipe, dense: "Vlm", device: "torch.device", work: Path
) -> list[Sample]:
    """The texts a recipe asks for, as samples; none where it asks for none.

    dense: the model before pruning. Its own text is written where it is, or on `device`; it is kept in `work`, so that
    a run that goes on has the same. Raises UsageError where there is no such text, or the model reads none alone.
    """
    if recipe.text is None:
        return []
    batcher, kind = batcher_of(dense), type(dense.model).__name__
    if not isinstance(batcher, Batcher):
        raise UsageError(
            f"{kind} tells which text belongs to a picture, and plain text to none: leave out --text."
        )
    if (problem := batcher.problem(Sample(None, "", "text"))) is not None:
        raise UsageError(f"For {kind}, leave out --text: it {problem}.")
    if recipe.text != OWN:
        tokenizer = dense.processor.tokenizer
        found = passages(
            read_text(recipe.text), tokenizer, recipe.text_samples, recipe.text_tokens, recipe.seed
        )
    else:
        note = work / "text.json"
        if is_first() and read_json(note) is None:
            write_json(note, {"texts": _written(recipe, dense, device)})
        meet(device)
        found = read_json(note)["texts"]
    samples = [Sample(None, "", text, f"text {number}") for number, text in enumerate(found) if text.strip()]
    if not samples:
        raise UsageError("The model wrote nothing: give --text a text file instead.")
    return samples


def mixed(samples: Sequence[Sample], texts: Sequence[Sample], share: float, seed: int) -> list[Sample]:
    """Samples and texts in a random order, in which texts have this share; they are repeated as often as that takes."""
    if not texts or not share:
        return list(samples)
    count = round(len(samples) * share / (1 - share))
    together = [*samples, *(texts[number % len(texts)] for number in range(count))]
    random.Random(seed).shuffle(together)
    return together


def _written(recipe: PruneRecipe | RepairRecipe, dense: "Vlm", device: "torch.device") -> list[str]:
    import torch

    from ressa.checkpoint import size_of

    model, home = dense.model, dense.model.device
    if device.type == "cuda" and home.type != "cuda":
        if size_of(model) + _CACHE > torch.cuda.mem_get_info(device)[0]:
            raise UsageError(
                "The model does not fit on the GPU as a whole, so that it would write text for hours: give --text a "
                "text file instead."
            )
        model.to(device)
    try:
        return own_text(
            model,
            dense.processor.tokenizer,
            recipe.text_samples,
            recipe.text_tokens,
            seed=recipe.seed,
            batch_size=_at_a_time(model, recipe.text_tokens),
        )
    finally:
        if model.device != home:
            model.to(home)


def _at_a_time(model: Any, tokens: int) -> int:
    """So many texts that their keys and values stay within `_CACHE`."""
    config = model.config.get_text_config()
    bytes_of_text = 2 * config.num_hidden_layers * config.hidden_size * 2 * tokens
    most = _MOST if model.device.type == "cuda" else _MOST_ON_A_CPU
    return max(1, min(most, _CACHE // bytes_of_text))
