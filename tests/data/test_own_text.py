"""Text that a model writes itself is its own, of its length, and the same each time."""

import math

import pytest
import torch
from families import FAMILIES

from ressa.checkpoint import load
from ressa.data.own_text import LIKELIEST, own_text
from ressa.errors import UsageError


@pytest.fixture(scope="module")
def llava():
    return load("embedded-llava")


def test_texts_are_as_many_and_as_long_as_asked_and_the_same_again(llava):
    before = torch.random.get_rng_state()
    texts = own_text(llava.model, llava.processor.tokenizer, 5, 24, seed=3, batch_size=2)
    assert torch.equal(before, torch.random.get_rng_state())
    again = own_text(llava.model, llava.processor.tokenizer, 5, 24, seed=3, batch_size=2)
    other = own_text(llava.model, llava.processor.tokenizer, 5, 24, seed=4, batch_size=2)
    assert texts == again
    assert not set(texts) & set(other)
    assert len(texts) == len(set(texts)) == 5
    tokenizer = llava.processor.tokenizer
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert len(ids) == 24
        assert not set(ids) & set(tokenizer.all_special_ids)


def test_the_model_finds_its_own_text_as_likely_as_it_should(llava):
    """A model's loss on what it sampled itself is, in expectation, the entropy of what it sampled from."""
    tokenizer = llava.processor.tokenizer
    texts = own_text(llava.model, tokenizer, 32, 40, seed=0)
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts])
    with torch.no_grad():
        bos = torch.tensor(tokenizer("")["input_ids"], dtype=torch.long).expand(len(ids), -1)
        logits = llava.model(input_ids=torch.cat([bos, ids], 1)).logits[:, bos.shape[1] :].double()
    special = sorted({*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder})
    logits[..., special] = -math.inf
    logits[..., len(tokenizer) :] = -math.inf
    log_p = logits.log_softmax(-1)
    drawn = slice(LIKELIEST, -1)
    losses = -log_p[:, drawn].gather(-1, ids[:, LIKELIEST + 1 :, None])[..., 0]
    entropies = -(log_p.exp() * log_p.clamp_min(-1e9)).sum(-1)[:, drawn]
    error = float((losses - entropies).std()) / math.sqrt(losses.numel())
    assert abs(float((losses - entropies).mean())) < 4 * error
    likeliest = log_p[:, :LIKELIEST].argmax(-1)
    same = (likeliest == ids[:, 1 : LIKELIEST + 1]).float().mean()
    assert same > 0.95  # a text may be tokenised otherwise than it was written


def test_an_encoder_decoder_is_refused():
    with pytest.raises(UsageError, match="encoder-decoder"):
        own_text(FAMILIES["instructblip-t5"].model(), None, 1, 8)
