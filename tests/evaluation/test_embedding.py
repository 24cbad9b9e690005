"""Pictures and texts embedded apart score what they score together."""

import pytest
import torch
from dual.models import DUAL
from PIL import Image

from ressa.data import Sample
from ressa.data.pairs import PairBatcher
from ressa.dual import DualEncoder
from ressa.evaluation.embedding import score_by_embedding

TEXTS = ["a red cat", "two blue dog with a tree on the left of the house", "the house", "bird", "a cat"]
IMAGES = [
    Sample(Image.new("RGB", (40 + 8 * i, 30), colour), "", text, str(i))
    for i, (colour, text) in enumerate(zip(["red", "blue", "white", "green", "pink"], TEXTS, strict=True))
]


@pytest.mark.parametrize(
    "name", ["clip", "siglip", "siglip2", "owlvit", "blip", "blip2", "colpali", "colqwen2"]
)
def test_all_pairs_score_what_a_batch_of_them_does(name):
    model, processor = DUAL[name]()
    encoder = DualEncoder(model, processor)
    with torch.no_grad():
        inputs = PairBatcher(model, processor).training(IMAGES)
        known = encoder.embed(lambda given: model(**given), model, inputs).similarity()
    found = score_by_embedding(model, processor, IMAGES[:4], TEXTS, batch_size=2)
    torch.testing.assert_close(found, known[:4], rtol=1e-4, atol=1e-4)
