"""Text that a model writes itself: data to calibrate and repair its language with where none is given.

"Self-calibration" (Williams et al., arXiv 2410.17170) found such text as good as real text for pruning. The
starts are LLM-QAT's (Liu et al., arXiv 2305.17888, §3.1): a word drawn from the vocabulary, the likeliest tokens
after it, then samples, so that texts are many and each is likely.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from ressa.errors import UsageError
from ressa.progress import bar

LIKELIEST = 4  # tokens behind the first one that are not drawn
ROWS, MOST_ROWS = 16, 8192  # texts at a time: on the CPU, and at most
LOGITS = 6  # copies of a step's logits, in float32, that sampling makes


@torch.no_grad()
def own_text(
    model: Any, tokenizer: Any, count: int, tokens: int, *, seed: int = 0, batch_size: int | None = None
) -> list[str]:
    """`count` texts of about `tokens` tokens each, sampled at temperature 1 from the model where it is, no image given.

    Special tokens are never drawn, so that no text ends early or speaks of a picture. The same seed gives the same
    texts on the same device. batch_size: texts at a time; by default as many as a GPU has room for.

    Raises UsageError where the model does not continue plain text: an encoder-decoder, or one that asks for an image.
    """
    if model.config.is_encoder_decoder or model.config.get_text_config().is_encoder_decoder:
        raise UsageError(f"{type(model).__name__} is an encoder-decoder: it does not write text of its own.")
    special = sorted({*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder})
    words = torch.tensor(sorted(set(range(len(tokenizer))) - set(special)))
    if not model.can_generate() or not len(words):
        raise UsageError(f"{type(model).__name__} cannot generate text: give a text file instead.")
    size = model.get_input_embeddings().weight.shape[0]  # it may be larger than the vocabulary
    never = special + list(range(len(tokenizer), size))
    bos = torch.tensor(tokenizer("", return_attention_mask=False)["input_ids"], dtype=torch.long)
    batches = -(-count // (batch_size or _rows(model, tokens)))
    rows = -(-count // max(1, batches))
    texts: list[str] = []
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), bar("Writing text", count) as progress:
        torch.manual_seed(seed)
        for _ in range(batches):
            first = words[torch.randint(len(words), (rows, 1))]
            ids = torch.cat([bos.expand(rows, -1), first], dim=1).to(model.device)
            written = _continue(model, ids, tokens - 1, never)
            progress.advance(min(rows, count - len(texts)))
            texts += tokenizer.batch_decode(written[:, len(bos) :].tolist())
    return texts[:count]


def _rows(model: Any, tokens: int) -> int:
    """How many texts of this length are written at a time: a step takes a small model on a GPU hardly longer for
    thousands. Half of what is free is for their keys and values and a step's logits."""
    config = model.config.get_text_config()
    layers = getattr(config, "num_hidden_layers", None)
    heads = getattr(config, "num_attention_heads", None)
    if model.device.type == "cpu" or not layers or not heads:
        return ROWS
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    kept = getattr(config, "num_key_value_heads", None) or heads
    vocabulary = model.get_input_embeddings().weight.shape[0]
    each = 2 * layers * kept * width * model.dtype.itemsize * tokens + LOGITS * 4 * vocabulary
    free, _ = torch.cuda.mem_get_info(model.device)
    return min(MOST_ROWS, max(1, free // 2 // each))


def _continue(model: Any, ids: Tensor, tokens: int, never: list[int]) -> Tensor:
    try:
        return model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=tokens,
            suppress_tokens=never,
            logits_processor=LogitsProcessorList([_LikeliestFirst(ids.shape[1] + LIKELIEST)]),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"{type(model).__name__} does not continue text without an image ({error}): give a text file instead."
        ) from error


class _LikeliestFirst(LogitsProcessor):
    """Leaves only the likeliest token up to a length of the text."""

    def __init__(self, until: int) -> None:
        self.until = until

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if input_ids.shape[1] >= self.until:
            return scores
        return scores.masked_fill(scores < scores.max(-1, keepdim=True).values, -torch.inf)
