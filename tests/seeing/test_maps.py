"""Maps of attention against what transformers itself gives back, and occlusion against the scenes."""

from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import torch
from data.more_vlms import MORE
from data.vlms import QUERIES, VLMS
from families import FAMILIES, IMAGE_TOKEN
from PIL import Image

from ressa.anatomy import find_anatomy
from ressa.checkpoint import load
from ressa.data import IGNORED, Batcher, Sample
from ressa.embedded import dataset_folder
from ressa.evaluation import draw
from ressa.evaluation.likelihood import log_likelihoods
from ressa.seeing import NoMap, attention_maps, compare_looks, find_places, look, named_places, occlusion_map
from ressa.seeing.attention import capture
from ressa.seeing.route import maps_of_batch


def samples():
    noise = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    words = (("question: what is in the picture?", "a red dog"), ("question: a cat?", "yes"))
    return [Sample(Image.fromarray(each), *said) for each, said in zip(noise, words, strict=True)]


@cache
def vlm(name):
    return {**VLMS, **MORE}[name]()


def batcher_of(model, processor):
    return Batcher(processor, model.config, model.generation_config)


def answer_positions(labels, shift):
    return [[t - shift for t in range(len(row)) if row[t] != IGNORED][:-1] or [0] for row in labels.tolist()]


def test_llavas_map_is_the_mean_of_its_own_attentions():
    model, processor = vlm("llava")
    batcher = batcher_of(model, processor)
    maps = attention_maps(model, batcher, find_anatomy(model), samples())
    model.set_attn_implementation("eager")
    inputs = batcher.training(samples())
    with torch.no_grad():
        attentions = model(**inputs, output_attentions=True).attentions
    mean = torch.stack(attentions).mean((0, 2))  # layers, heads
    for index, where in enumerate(answer_positions(inputs["labels"], 1)):
        tokens = inputs["input_ids"][index] == model.config.image_token_id
        expected = mean[index, where].mean(0)[tokens].view(4, 4)
        torch.testing.assert_close(maps[index], expected / expected.sum())


def test_instructblips_map_is_the_product_with_its_q_formers_rollout():
    model, processor = vlm("instructblip")
    batcher = batcher_of(model, processor)
    maps = attention_maps(model, batcher, find_anatomy(model), samples())
    model.set_attn_implementation("eager")
    inputs = batcher.training(samples())
    with torch.no_grad():
        words = model(**inputs, output_attentions=True).language_model_outputs.cross_attentions
        patches = model.vision_model(inputs["pixel_values"]).last_hidden_state
        former = model.qformer(
            input_ids=inputs["qformer_input_ids"],
            attention_mask=torch.cat([torch.ones(2, QUERIES), inputs["qformer_attention_mask"]], 1),
            query_embeds=model.query_tokens.expand(2, -1, -1),
            encoder_hidden_states=patches,
            output_attentions=True,
        )
    crossed = torch.stack(words).mean((0, 2))
    for index, where in enumerate(answer_positions(inputs["labels"], 0)):
        tokens = inputs["input_ids"][index] == model.config.image_token_index
        shares = crossed[index, where].mean(0)[tokens]
        onto = torch.zeros(former.attentions[0].shape[-1], former.cross_attentions[0].shape[-1])
        among_queries = [each for each in former.attentions if each.shape[2] == each.shape[3]]
        for own, cross in zip(among_queries, former.cross_attentions, strict=True):
            onto = 0.5 * own[index].mean(0) @ onto + 0.5 * onto
            queries = cross.shape[2]
            onto[:queries] = 0.5 * cross[index].mean(0) + 0.5 * onto[:queries]
        expected = (shares @ onto[: len(shares)])[1:].view(4, 4)  # the first is the class token
        torch.testing.assert_close(maps[index], expected / expected.sum())


@pytest.mark.parametrize("name", [*VLMS, *MORE])
def test_any_model_gives_maps_or_says_why_not_and_is_left_as_it_was(name):
    model, processor = vlm(name)
    batcher = batcher_of(model, processor)
    before = model.config._attn_implementation
    with torch.no_grad():
        expected = model(**batcher.training(samples()[:1])).logits
    hooks = _hooks(model)  # transformers adds its own on the first forward
    ask = partial(attention_maps, model, batcher, find_anatomy(model), samples()[:1])
    if name in WITHOUT:
        with pytest.raises(NoMap, match=WITHOUT[name]):
            ask()
    else:
        (found,) = ask()
        assert found.sum().item() == pytest.approx(1, abs=1e-4)
        assert found.min() >= 0
        assert min(found.shape) > 1
    assert model.config._attn_implementation == before
    with torch.no_grad():
        assert torch.equal(model(**batcher.training(samples()[:1])).logits, expected)
    assert _hooks(model) == hooks


def _hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


WITHOUT = {"llava-next": "several crops"}


NOT_IN_PLACE = {"smolvlm": "grid", "blip-vqa": "no tokens", "mllama": "several crops"}


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "clip"])  # CLIP answers nothing
def test_every_kind_of_model_gives_maps_or_says_why_not(name):
    model, inputs = FAMILIES[name].model(), FAMILIES[name].inputs(0)
    splits = model.config.is_encoder_decoder or model.config.get_text_config().is_encoder_decoder
    ask = partial(maps_of_batch, model, find_anatomy(model), inputs, IMAGE_TOKEN, bool(splits))
    if name in NOT_IN_PLACE:
        with pytest.raises(NoMap, match=NOT_IN_PLACE[name]):
            ask()
        return
    for found in ask():
        assert found.sum().item() == pytest.approx(1, abs=1e-4)
        assert found.max() > 1.02 * found.mean()


def test_captured_attention_is_of_each_layer_once():
    model, processor = vlm("instructblip")
    with capture(model, find_anatomy(model)) as captured, torch.no_grad():
        model(**batcher_of(model, processor).training(samples()))
    modules = [each.module for each in captured.attended]
    assert len(set(modules)) == len(modules) == 2 + 2 * 2 + 2 + 2 * 2  # vision, Q-Former, encoder, decoder
    assert [each.cross for each in captured.of("connector")] == [False, True] * 2
    assert captured.grid == (4, 4)


# -- the embedded models know what they look at ----------------------------------------------------------------


@pytest.fixture(scope="module")
def named():
    folder = dataset_folder(seed=0, sizes={"test": 12})
    asked = [each for each in draw(folder, ("vqa",), split="test").samples["vqa"] if each.kinds[0] == "where"]
    places = find_places(folder, asked)
    return [(each, found) for each in asked if (found := named_places(each, places))][:5]


@pytest.mark.parametrize("name", ["embedded", "embedded-llava"])
def test_the_embedded_models_look_at_what_a_question_names(name, named):
    questions, places = [list(each) for each in zip(*named, strict=True)]
    found = look(load(name, dtype="float32"), questions)
    dense = compare_looks(found, found, places)
    assert dense["occlusion"]["mass"] > 4 * dense["occlusion"]["area"]
    assert dense["attention"]["mass"] > 1.4 * dense["attention"]["area"]
    assert dense["attention"]["hit"] > 0.4 > 4 * dense["attention"]["area"]
    assert [each.answer for each in found.looks] == [each.answers[0] for each in questions]


def test_hiding_nothing_changes_nothing_and_the_whole_picture_scores_as_ever(named):
    model, processor = (found := load("embedded-llava", dtype="float32")).model, found.processor
    batcher = batcher_of(model, processor)
    sample = replace(named[0][0], target="top left")
    whole, _ = occlusion_map(model, batcher, sample)
    with torch.no_grad():
        assert whole == pytest.approx(log_likelihoods(model, batcher, [sample]).item(), abs=1e-5)
    plain = replace(sample, image=Image.new("RGB", (112, 112), (120, 130, 140)))
    assert occlusion_map(model, batcher, plain)[1].abs().max() < 1e-5
