"""Texts that a model cannot read as they are: too long, or with an image's placeholder in them."""

import dataclasses

import pytest
import torch
from PIL import Image

from ressa.data.batcher import Batcher
from ressa.data.checking import readable
from ressa.data.faults import Faults
from ressa.data.sample import Sample
from ressa.errors import UsageError
from ressa.warned import RessaWarning
from tests.data.more_vlms import MORE
from tests.data.vlms import VLMS

RED = Image.new("RGB", (40, 30), "red")
SAMPLE = Sample(RED, "Question: what is in the picture? Short answer:", "a red cat", "12")


@pytest.fixture(scope="module", params=VLMS | MORE)
def vlm(request):
    model, processor = (VLMS | MORE)[request.param]()
    return model, Batcher(processor, model.config)


def longer(words, sample=SAMPLE):
    return dataclasses.replace(sample, prompt=f"{'what is in the picture ' * words}?")


def test_a_placeholder_in_a_text_is_taken_out_and_said(vlm):
    model, batcher = vlm
    token = batcher.text.image_token
    if token is None:
        pytest.skip("the family has no placeholder")
    placed = Sample(
        RED, f"{token}\nQuestion: what is in the picture? Short answer:", f"a {token}red cat", "12"
    )
    with pytest.warns(RessaWarning, match=f"Texts with .*{token}.*: 1 of 1; it is taken out"):
        assert readable([placed], batcher, Faults()) == [placed]
    expected, found = batcher.training([SAMPLE]), batcher.training([placed])
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    with torch.inference_mode():
        model(**found)


def test_a_target_of_nothing_else_is_a_fault(vlm):
    _, batcher = vlm
    token = batcher.text.image_token
    if token is None:
        pytest.skip("the family has no placeholder")
    faults = Faults()
    assert readable([dataclasses.replace(SAMPLE, target=f" {token} ")], batcher, faults) == []
    with pytest.raises(UsageError, match="sample 12: its target is nothing but"):
        faults.settle()


def test_a_prompt_that_fills_all_positions_is_read_and_a_longer_one_is_a_fault(vlm):
    model, batcher = vlm
    limit = batcher.limits.positions
    if limit is None or limit > 3000:
        pytest.skip("the family reads texts of any length")
    room = limit - batcher.length(SAMPLE)
    per_word = batcher.length(longer(2)) - batcher.length(longer(1))
    sample = longer(room // per_word)
    while batcher.length(dataclasses.replace(sample, prompt=f"what {sample.prompt}")) <= limit:
        sample = dataclasses.replace(sample, prompt=f"what {sample.prompt}")
    assert batcher.length(sample) == limit
    assert readable([sample], batcher, Faults()) == [sample]
    with torch.inference_mode():
        model(**batcher.training([sample]))
    long = dataclasses.replace(sample, prompt=f"what {sample.prompt}")
    faults = Faults()
    assert readable([sample, long], batcher, faults) == [sample]
    assert readable([sample], batcher, faults, room=1) == []
    with pytest.raises(UsageError, match=f"sample 12: has {limit + 1:,} tokens"):
        faults.settle()
    with pytest.raises(UsageError, match=f"sample 12 has .* and the model reads {limit:,}"):
        batcher.training([long])


@pytest.mark.parametrize("family", ["instructblip", "instructblip-llama"])
def test_a_qformer_reads_the_beginning_and_the_language_model_all(family):
    model, processor = (VLMS | MORE)[family]()
    batcher = Batcher(processor, model.config)
    assert batcher.limits.qformer == 64
    samples = [SAMPLE, longer(20)]
    with pytest.warns(RessaWarning, match="longer than the 64 tokens that the Q-Former reads: 1 of 2;"):
        assert readable(samples, batcher, Faults()) == samples
    batch = batcher.training(samples)
    assert batch["qformer_input_ids"].shape == batch["qformer_attention_mask"].shape == (2, 64)
    alone = batcher.training([SAMPLE])["qformer_input_ids"][0]
    assert torch.equal(batch["qformer_input_ids"][0][: len(alone)], alone)
    assert batch["input_ids"].shape[1] > 80
    with torch.inference_mode():
        assert model(**batch).loss.isfinite()
        model.generate(**batcher.generation(samples), max_new_tokens=2)
