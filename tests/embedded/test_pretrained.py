"""The VLM of pretrained towers is put together and taught as the product reads it; here of tiny towers."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import Dinov2Config, Dinov2Model, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ressa.anatomy import find_anatomy
from ressa.data.batcher import Batcher
from ressa.data.prompts import CAPTION, QUESTION
from ressa.data.sample import Sample
from ressa.embedded.captions import captions
from ressa.embedded.questions import questions
from ressa.embedded.scenes import render, sample_scene

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(SCRIPTS))
    yield importlib.import_module("make_pretrained")
    sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def towers(tmp_path_factory) -> tuple[Path, Path]:
    """A DINOv2 and a chat Llama, each of two small layers."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("towers")
    vision, language = folder / "vision", folder / "language"
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    Dinov2Model(Dinov2Config(**small, image_size=224, patch_size=14)).save_pretrained(vision)
    texts = [CAPTION, QUESTION, "user assistant"]
    for index in range(40):
        scene = sample_scene("val", index)
        texts += [*captions(scene), *(text for q in questions(scene) for text in (q.text, q.answer))]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    splitter = pre_tokenizers.Whitespace()
    words = sorted({word for text in texts for word, _ in splitter.pre_tokenize_str(text)})
    tokenizer = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate([*special, *words])}, unk_token="<|endoftext|>")
    )
    tokenizer.pre_tokenizer = splitter
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    ).save_pretrained(language)
    LlamaForCausalLM(
        LlamaConfig(
            **small,
            vocab_size=len(special) + len(words),
            intermediate_size=64,
            eos_token_id=2,
            tie_word_embeddings=True,
        )
    ).save_pretrained(language)
    return vision, language


def test_it_has_the_towers_and_their_weights(script, towers):
    model, processor = script.assemble(*towers)
    anatomy = find_anatomy(model)
    assert [len(anatomy.blocks(tower)) for tower in ("vision", "connector", "language")] == [2, 1, 2]
    known = LlamaForCausalLM.from_pretrained(towers[1])
    ours = model.model.language_model.layers[1].mlp.up_proj.weight
    assert torch.equal(ours, known.model.layers[1].mlp.up_proj.weight)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert model.config.image_token_id == processor.tokenizer.convert_tokens_to_ids("<image>")


def test_texts_about_one_image_in_one_sequence_give_the_loss_of_the_models_own_forward(script, towers):
    torch.manual_seed(1)
    model, processor = script.assemble(*towers)
    model.eval()
    scene = sample_scene("val", 4)
    asked, told = questions(scene)[:3], captions(scene)[0]
    tokens = script.ChatTokens(*towers)
    prompts = [QUESTION.format(q.text) for q in asked]
    rows = [tokens.prompts(prompts), tokens.targets(prompts, [q.answer for q in asked])]
    rows.append(tokens.targets([CAPTION], [told]))
    padded = []
    for ids, length in zip(rows, tokens.slots, strict=True):
        padded.append(torch.zeros(len(ids), length, dtype=torch.long))
        for row, line in zip(padded[-1], ids, strict=True):
            row[: len(line)] = torch.tensor(line)
    pixels = torch.from_numpy(render(scene).transpose(2, 0, 1).copy())[None]
    recipe = replace(script.SMOKE, caption_weight=0.5)
    trainer = script.Trainer(model, recipe, tokens.lead, tokens.prompts([CAPTION])[0])
    with torch.no_grad():
        loss, right = trainer(pixels, padded[0][None], padded[1][None], padded[2])
    batcher, picture = Batcher(processor, model.config), Image.fromarray(render(scene))
    questions_batch = batcher.training(
        [Sample(picture, prompt, q.answer) for prompt, q in zip(prompts, asked, strict=True)]
    )
    caption_batch = batcher.training([Sample(picture, CAPTION, told)])
    with torch.no_grad():
        expected = model(**questions_batch).loss + 0.5 * model(**caption_batch).loss
    assert right.shape == (1, 3)
    torch.testing.assert_close(loss, expected, rtol=2e-3, atol=2e-3)  # torch and Pillow round pixels apart
