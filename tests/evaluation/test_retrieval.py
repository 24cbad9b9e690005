"""Scoring many captions behind one image equals scoring every pair on its own."""

import pytest
import torch
import transformers as hf
from PIL import Image

from ressa.data import Batcher, CaptionedImage, Sample
from ressa.dual import is_dual_encoder, itm_switch
from ressa.errors import UsageError
from ressa.evaluation import Kept, generation, likelihood, settings_of
from ressa.evaluation.embedding import score_by_embedding
from ressa.evaluation.likelihood import ImageFirst, log_likelihoods, score_pairs
from ressa.evaluation.matching import score_by_itm
from ressa.evaluation.tasks import Asking, task_named
from tests.data.more_vlms import BLIP_TEXT
from tests.data.vlms import (
    IMAGE_SIZE,
    LANGUAGE,
    QUERIES,
    SQUARE,
    VLMS,
    WORDS,
    image_token_id,
    qformer,
    spread,
    tokenizer,
    vision,
)

CAPTIONS = ["a red cat", "dog", "two cats and three dogs on the left of a house", "the blue bird", "dog", "a"]
IMAGES = [
    CaptionedImage(
        Image.new("RGB", (30, 30), colour), "A short description:", id=colour, captions=("a", colour)
    )
    for colour in ("red", "blue", "white")
]


@pytest.fixture(params=VLMS)
def vlm(request):
    model, processor = VLMS[request.param]()
    return model, Batcher(processor, model.config)


def retrieve(model, processor, images, kept=None):
    task, settings = task_named("retrieval"), settings_of("retrieval")
    asking = Asking(model, processor, settings, 4, (Kept() if kept is None else kept).of("retrieval"))
    return task.score(task.ask(asking, images), images, settings)


def pair_by_pair(model, batcher):
    with torch.inference_mode():
        return torch.stack(
            [
                torch.cat(
                    [
                        log_likelihoods(model, batcher, [Sample(i.image, i.prompt, caption)])
                        for caption in CAPTIONS
                    ]
                )
                for i in IMAGES
            ]
        )


@pytest.mark.parametrize("batch_size", [1, 4])
def test_scores_equal_those_of_one_pair_at_a_time(vlm, batch_size):
    model, batcher = vlm
    scores = score_pairs(model, batcher, IMAGES, CAPTIONS, batch_size=batch_size)
    torch.testing.assert_close(scores, pair_by_pair(model, batcher), rtol=1e-4, atol=1e-3)
    assert torch.equal(scores[:, 1], scores[:, 4])  # the same caption twice


def test_image_and_prompt_are_read_once_an_image(vlm, monkeypatch):
    """The shortcut is what runs on these families, not its fallback."""
    model, batcher = vlm
    whole_passes = []
    plain = likelihood.log_likelihoods
    monkeypatch.setattr(likelihood, "log_likelihoods", lambda *args: whole_passes.append(1) or plain(*args))
    score_pairs(model, batcher, IMAGES, CAPTIONS, batch_size=2)
    assert len(whole_passes) == 1  # the comparison on the first image


def test_a_model_that_cannot_be_taken_apart_is_scored_by_the_definition(vlm, monkeypatch):
    model, batcher = vlm
    expected = score_pairs(model, batcher, IMAGES, CAPTIONS)
    monkeypatch.setattr(ImageFirst, "read", lambda *_: {})
    torch.testing.assert_close(score_pairs(model, batcher, IMAGES, CAPTIONS), expected, rtol=1e-4, atol=1e-3)


def test_a_shortcut_with_other_scores_is_not_taken(vlm, monkeypatch):
    model, batcher = vlm
    right = ImageFirst.score
    monkeypatch.setattr(ImageFirst, "score", lambda *args: right(*args) + 1)
    pairs = [Sample(IMAGES[0].image, "a", "a dog")]
    with torch.inference_mode():
        assert likelihood._tried_out(model, batcher, pairs) is None


def test_retrieval_ranks_by_the_scores(vlm, monkeypatch):
    """Captions "a" of all images are one text: they tie, and each image has a third of that hit."""
    model, batcher = vlm
    scores = torch.tensor([[0.0, 5.0, 1.0, 1.0], [9.0, 1.0, 5.0, 1.0], [0.0, 1.0, 1.0, 5.0]])
    monkeypatch.setattr(likelihood, "score_pairs", lambda *args, **options: scores)
    found = retrieve(model, batcher.processor, IMAGES)
    # Image 1 ranks the three equal "a" first, one of which is its own.
    assert found["TR@1"] == pytest.approx(100 * (1 + 1 / 3 + 1) / 3)
    assert found["IR@1"] == pytest.approx(100 * (3 + 1) / 6)  # "a": image 1 wins all three, right once
    assert found["score"] == pytest.approx((found["TR@1"] + found["IR@1"]) / 2)
    assert found["scoring"] == "likelihood"
    # Less its mean (3), "a" is worth 6 to image 1, still above its own 5 − 7/3.
    assert found["TR@1 prior-corrected"] == pytest.approx(found["TR@1"])


# -- models made for matching --------------------------------------------------------------------------------


def blip_itm():
    config = hf.BlipConfig(text_config=BLIP_TEXT, vision_config=vision(), image_text_hidden_size=16)
    images = hf.BlipImageProcessor(size=SQUARE)
    return spread(hf.BlipForImageTextRetrieval(config)), hf.BlipProcessor(images, tokenizer(end_token=True))


def _blip2_itm():
    config = hf.Blip2Config(
        vision_config=hf.Blip2VisionConfig(**vision()).to_dict(),
        qformer_config=qformer(hf.Blip2QFormerConfig, use_qformer_text_input=True).to_dict(),
        text_config=hf.OPTConfig(vocab_size=len(WORDS)).to_dict(),
        num_query_tokens=QUERIES,
        image_text_hidden_size=16,
        image_token_index=image_token_id(),
    )
    images = hf.BlipImageProcessor(size=SQUARE)
    processor = hf.Blip2Processor(images, tokenizer(end_token=True), num_query_tokens=QUERIES)
    return spread(hf.Blip2ForImageTextRetrieval(config)), processor


@pytest.mark.parametrize("build", [blip_itm, _blip2_itm])
def test_an_itm_head_scores_pairs_where_there_is_one(build):
    model, processor = build()
    assert itm_switch(model)
    by_image, by_caption = score_by_itm(model, processor, IMAGES, CAPTIONS, candidates=6, batch_size=4)
    assert torch.equal(by_image, by_caption)  # where all are candidates
    matches, similar = alone(model, processor)
    torch.testing.assert_close(by_image, matches + similar, rtol=1e-4, atol=1e-4)
    assert min(matches.std(), similar.std()) > 1e-3
    assert retrieve(model, processor, IMAGES)["scoring"] == "ITM head, 128 candidates"


@pytest.mark.parametrize("build", [blip_itm, _blip2_itm])
def test_the_itm_head_looks_at_the_most_similar_candidates_only(build):
    model, processor = build()
    by_image, by_caption = score_by_itm(model, processor, IMAGES, CAPTIONS, candidates=2, batch_size=4)
    matches, similar = alone(model, processor)
    for row in range(len(IMAGES)):
        best = similar[row].topk(2)
        assert by_image[row].isfinite().sum() == 2
        # equal captions are equally similar, so either may be the candidate
        assert sorted(similar[row, by_image[row].isfinite()].tolist()) == pytest.approx(
            sorted(best.values.tolist())
        )
    for column in range(len(CAPTIONS)):
        assert by_caption[:, column].isfinite().nonzero()[:, 0].tolist() == sorted(
            similar[:, column].topk(2).indices.tolist()
        )
    for scores in (by_image, by_caption):
        chosen = scores.isfinite()
        torch.testing.assert_close(scores[chosen], (matches + similar)[chosen], rtol=1e-4, atol=1e-4)


def alone(model, processor):
    """The match logit and the contrastive similarity of each pair, straight from transformers."""
    found = []
    for on in (True, False):
        scores = torch.empty(len(IMAGES), len(CAPTIONS))
        for row, image in enumerate(IMAGES):
            for column, caption in enumerate(CAPTIONS):
                inputs = processor(images=image.image, text=[caption], return_tensors="pt")
                with torch.inference_mode():
                    output = model(**inputs, **{itm_switch(model): on})
                logits = output.itm_score if hasattr(output, "itm_score") else output.logits_per_image
                scores[row, column] = logits[0, -1]
        found.append(scores)
    return found


def _clip():
    text = {
        **LANGUAGE,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
    }
    config = hf.CLIPConfig(text_config=text, vision_config=vision(), projection_dim=16)
    images = hf.CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=SQUARE)
    words = tokenizer(end_token=True)
    words.model_max_length = 32
    return spread(hf.CLIPModel(config)), hf.CLIPProcessor(images, words)


def test_two_encoders_score_by_their_cosine():
    model, processor = _clip()
    assert is_dual_encoder(model, processor)
    scores = score_by_embedding(model, processor, IMAGES, CAPTIONS, batch_size=2)
    inputs = processor(images=[i.image for i in IMAGES], text=CAPTIONS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        output = model(**inputs)
    torch.testing.assert_close(scores, output.image_embeds @ output.text_embeds.T, rtol=1e-4, atol=1e-5)
    assert retrieve(model, processor, IMAGES)["scoring"] == "embeddings"


def test_two_encoders_cannot_answer_questions():
    model, processor = _clip()
    with pytest.raises(UsageError, match="CLIPModel cannot generate text"):
        generation.generate(model, Batcher(processor, model.config), IMAGES, max_new_tokens=2)


def test_the_families_that_generate_are_scored_by_likelihood(vlm):
    model, _ = vlm
    assert itm_switch(model) is None
    assert model.can_generate()
