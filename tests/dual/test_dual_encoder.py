"""Every kind of dual encoder is found by its structure, and pairs score what the model itself says."""

import math

import pytest
import torch
from dual.models import DUAL
from PIL import Image

from ressa.data import Sample, batches
from ressa.data.pairs import PairBatcher, negatives
from ressa.dual import DualEncoder, is_dual_encoder
from tests.data.vlms import VLMS

TEXTS = ["a red cat", "two blue dog with a tree", "A  red cat", "the house"]
SAMPLES = [
    Sample(Image.new("RGB", (40 + 8 * i, 30), colour), "not used", text, str(i))
    for i, (colour, text) in enumerate(zip(["red", "blue", "white", "green"], TEXTS, strict=True))
]


def embedded(name):
    model, processor = DUAL[name]()
    batcher, encoder = PairBatcher(model, processor), DualEncoder(model, processor)
    inputs = batcher.training(SAMPLES)
    with torch.no_grad():
        return model, processor, encoder, inputs, encoder.embed(lambda given: model(**given), model, inputs)


@pytest.mark.parametrize("name", ["clip", "altclip", "two_models", "owlvit", "siglip", "siglip2"])
def test_logits_are_the_models_own(name):
    model, processor, encoder, inputs, found = embedded(name)
    assert is_dual_encoder(model, processor)
    with torch.no_grad():
        known = model(**inputs["both"])
    torch.testing.assert_close(
        encoder.logits(found.similarity()), known.logits_per_image, rtol=1e-4, atol=1e-4
    )
    assert encoder.loss == ("sigmoid" if name.startswith("siglip") else "softmax")


@pytest.mark.parametrize("name", ["blip", "blip2"])
def test_an_itm_models_embeddings_make_its_contrastive_scores(name):
    """BLIP gives nothing but the scores: its projections are found."""
    model, processor, encoder, inputs, found = embedded(name)
    assert is_dual_encoder(model, processor)
    assert encoder.scale == pytest.approx(1 / 0.07)
    with torch.no_grad():
        output = model(**inputs["both"], **{encoder.switch: False})
    known = output.itm_score if name == "blip" else output.logits_per_image
    torch.testing.assert_close(found.similarity(), known, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["colpali", "colqwen2"])
def test_late_interaction_scores_as_the_processor_does(name):
    model, processor, encoder, _inputs, found = embedded(name)
    assert encoder.late
    assert encoder.loss == "hardest"
    with torch.no_grad():
        pages = model(**processor.process_images(images=[sample.image for sample in SAMPLES])).embeddings
        queries = model(**processor.process_queries(text=[sample.target for sample in SAMPLES])).embeddings
    known = processor.score_retrieval(list(queries), list(pages))
    torch.testing.assert_close(found.similarity().T, known, rtol=1e-4, atol=1e-4)
    assert [("pixel_values" in each) for each in batches_of(model, processor)] == [True, False] * 2


def batches_of(model, processor):
    class Loaded:
        pass

    vlm = Loaded()
    vlm.model, vlm.processor = model, processor
    return batches(vlm, SAMPLES, 2)


def test_texts_are_padded_as_they_were_learnt():
    lengths = {
        name: PairBatcher(*DUAL[name]()).training(SAMPLES)["both"]["input_ids"].shape[1]
        for name in ("clip", "siglip", "siglip2", "owlvit")
    }
    assert lengths == {"clip": 8, "siglip": 32, "siglip2": 64, "owlvit": 32}


def test_equal_texts_and_equal_pictures_are_no_negatives():
    apart = negatives(["p", "q", "r", "p"], TEXTS)
    expected = [
        [False, True, False, False],
        [True, False, True, True],
        [False, True, False, True],
        [False, True, True, False],
    ]
    assert apart.tolist() == expected


@pytest.mark.parametrize("name", VLMS)
def test_models_that_write_are_no_dual_encoders(name):
    assert not is_dual_encoder(*VLMS[name]())


def test_a_bias_of_logits_counts():
    model, processor = DUAL["siglip"]()
    model.logit_scale.data.fill_(math.log(5.0))
    model.logit_bias.data.fill_(-3.0)
    assert DualEncoder(model, processor).logits(torch.tensor(0.5)) == pytest.approx(-0.5)
