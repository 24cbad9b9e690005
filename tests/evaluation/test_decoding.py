"""Beams, lengths and penalties reach the generation, and mean what they say."""

from types import SimpleNamespace

import pytest
import torch

from ressa.data import Batcher, DatasetFolder
from ressa.errors import UsageError
from ressa.evaluation import Decoding, evaluate, generation, settings_of
from ressa.recipe import EvaluateRecipe, make_recipe
from tests.data.tiny_folders import tiny_dataset
from tests.data.vlms import VLMS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_dataset(tmp_path_factory.mktemp("data") / "tiny", images=4)


@pytest.fixture(scope="module", params=VLMS)
def vlm(request):
    model, processor = VLMS[request.param]()
    return SimpleNamespace(model=model, processor=processor)


def test_what_transformers_is_told(vlm, folder):
    """Beams of at least 8 and at most 12 tokens, the end included, by log-probability × length."""
    samples = DatasetFolder(folder).samples("vqa", "test")
    batcher = Batcher(vlm.processor, vlm.model.config)
    decoding = Decoding(beams=3, answer_tokens=(8, 12), answer_length_penalty=-1.0)
    settings = settings_of("vqa", decoding=decoding)
    found = generation.generate(vlm.model, batcher, samples, **settings.generation())
    for sample, text in zip(samples, found, strict=True):
        inputs = batcher.generation([sample])
        options = {"max_new_tokens": 12, "min_new_tokens": 7, "num_beams": 3, "length_penalty": -1.0}
        alone = vlm.model.generate(**inputs, **options, do_sample=False)
        assert batcher.decode(alone, inputs) == [text]


def test_a_repetition_penalty_counts_what_was_said_and_not_the_prompt(vlm, folder):
    """Greedy decoding by hand: logits of said tokens are divided by the penalty, or multiplied below 0."""
    samples = DatasetFolder(folder).samples("vqa", "test")[:2]
    batcher = Batcher(vlm.processor, vlm.model.config)
    texts = generation.generate(
        vlm.model, batcher, samples, max_new_tokens=6, min_new_tokens=6, repetition_penalty=1.5
    )
    ends = batcher.stopping().get("eos_token_id", vlm.model.generation_config.eos_token_id)
    ends = [ends] if isinstance(ends, int) else list(ends)
    for sample, text in zip(samples, texts, strict=True):
        inputs = batcher.generation([sample])
        decoder = batcher.encoder_decoder
        start = vlm.model.generation_config.decoder_start_token_id
        if decoder and start is None:
            start = vlm.model.config.get_text_config().decoder_start_token_id
        said: list[int] = [start] if decoder else []
        cache = None
        for _ in range(6):
            if decoder:
                asked = {**inputs, "decoder_input_ids": torch.tensor([said])}
            elif cache is None:
                asked = inputs
            else:
                asked = {"input_ids": torch.tensor([said[-1:]]), "past_key_values": cache}
            with torch.no_grad():
                outputs = vlm.model(**asked, use_cache=not decoder)
            cache = outputs.get("past_key_values")
            logits = outputs.logits[0, -1].float()
            for token in set(said):
                logits[token] = logits[token] / 1.5 if logits[token] > 0 else logits[token] * 1.5
            logits[ends] = -torch.inf
            said.append(int(logits.argmax()))
        new = torch.tensor([said if decoder else [*inputs["input_ids"][0].tolist(), *said]])
        assert batcher.decode(new, inputs) == [text]


def test_the_result_says_how_it_was_asked(vlm, folder):
    decoding = Decoding(beams=2, caption_tokens=(2, 4), repetition_penalty=1.2)
    found = evaluate(vlm, folder, ("caption",), decoding=decoding, caption="a photo of")
    assert found["asked"]["caption"]["beams"] == 2
    assert found["asked"]["caption"]["tokens"] == [2, 4]
    assert found["asked"]["caption"]["prompt"] == "a photo of"
    assert found["data"] != evaluate(vlm, folder, ("caption",))["data"]  # another prompt is another question


def test_a_caption_may_be_asked_for_with_no_words_at_all(vlm, folder):
    found = evaluate(vlm, folder, ("caption",), caption="")
    assert found["tasks"]["caption"]["n"] == 4


@pytest.mark.parametrize(
    ("given", "said"), [("8-30", "8-30"), ("30", "1-30"), (30, "1-30"), (" 8 - 30 ", "8-30")]
)
def test_tokens_have_one_spelling(given, said):
    recipe = EvaluateRecipe(model="m", caption_tokens=given)
    assert recipe.caption_tokens == said
    assert recipe.asking()["decoding"].caption_tokens == tuple(map(int, said.split("-")))


@pytest.mark.parametrize(
    "wrong",
    [
        {"caption_tokens": "30-8"},
        {"caption_tokens": "0-8"},
        {"caption_tokens": "many"},
        {"answer_tokens": True},
        {"question_prompt": "Question:"},
        {"question_prompt": "{} {}"},
    ],
)
def test_what_cannot_be_asked_is_one_sentence(wrong):
    with pytest.raises(UsageError) as error:
        make_recipe({"command": "evaluate", "model": "m", **wrong})
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200
