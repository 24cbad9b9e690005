"""Perplexity on text is exp of the mean negative log-likelihood, window by window."""

import math

import pytest
import torch
from families import FAMILIES

from ressa.errors import RunError, UsageError
from ressa.evaluation.perplexity import perplexity


class Letters:
    """A tokenizer of one token a letter."""

    def __call__(self, text, **_):
        return {"input_ids": [ord(letter) % 20 + 3 for letter in text]}


def test_it_is_the_likelihood_of_every_token_but_the_windows_first():
    model = FAMILIES["llava"].model().eval()
    text = "what of its language is left" * 3
    found = perplexity(model, Letters(), text, window=16, batch_size=2)
    ids = torch.tensor(Letters()(text)["input_ids"])
    terms = []
    for start in range(0, len(ids) - 15, 16):
        window = ids[start : start + 16]
        with torch.no_grad():
            chances = model(input_ids=window[None]).logits[0].double().softmax(-1)
        terms += [chances[i, window[i + 1]].log().item() for i in range(15)]
    assert found == pytest.approx(math.exp(-sum(terms) / len(terms)), rel=1e-4)


def test_what_it_cannot_read_is_told():
    model = FAMILIES["llava"].model().eval()
    with pytest.raises(UsageError, match="less than one window"):
        perplexity(model, Letters(), "short", window=16)
    with pytest.raises(UsageError, match="does not continue plain text"):
        perplexity(FAMILIES["instructblip-t5"].model(), Letters(), "a" * 40, window=16)
    model.lm_head.weight.data[0] = torch.nan
    with pytest.raises(RunError, match="not a number"):
        perplexity(model, Letters(), "a" * 40, window=16)
