"""Perplexity of a VLM's language model on plain text: what of its language is left after pruning and repair.

The protocol of GPTQ, SparseGPT and Wanda: the text's tokens are cut into windows that do not overlap, each is read
from its first token on, and exp of the mean negative log-likelihood of all tokens but the windows' first is given.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F

from ressa.errors import RunError, UsageError
from ressa.progress import bar


@torch.no_grad()
def perplexity(
    model: Any, tokenizer: Any, text: str, *, window: int = 1024, tokens: int = 65_536, batch_size: int = 8
) -> float:
    """exp of the mean negative log-likelihood of a text's tokens, no image given; sums in fp32.

    Args:
        model: a decoder-only VLM whose forward takes `input_ids` alone (LLaVA and its like), where it is.
        window: tokens read together. tokens: how much of the text's beginning is read; whole windows only.

    Raises UsageError where the text fills no window or the model does not read text alone, RunError where the
    likelihood is not a number.
    """
    ids = torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:tokens])
    windows = ids[: len(ids) // window * window].reshape(-1, window)
    if not len(windows):
        raise UsageError(f"The text has {len(ids)} tokens, less than one window of {window}: give more text.")
    if model.config.is_encoder_decoder or model.config.get_text_config().is_encoder_decoder:
        raise UsageError(f"{type(model).__name__} is an encoder-decoder: it does not continue plain text.")
    total = 0.0
    with bar("Reading text", len(windows)) as progress:
        for rows in windows.split(batch_size):
            rows = rows.to(model.device)
            try:
                logits = model(input_ids=rows, attention_mask=torch.ones_like(rows), use_cache=False).logits
            except (TypeError, ValueError, AttributeError) as error:
                raise UsageError(
                    f"{type(model).__name__} does not read text without an image: {error}."
                ) from error
            for line, target in zip(
                logits[:, :-1], rows[:, 1:], strict=True
            ):  # one at a time: logits are large
                total += F.cross_entropy(line.float(), target, reduction="sum").item()
            progress.advance(len(rows))
    if not math.isfinite(total):
        raise RunError("The likelihood of the text is not a number: the model's logits hold NaN or infinity.")
    return math.exp(total / (len(windows) * (window - 1)))
