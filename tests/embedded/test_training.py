"""The training script's fast forward passes compute what the models themselves compute, and a short run finishes."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from ressa.data.batcher import Batcher
from ressa.data.prompts import CAPTION, QUESTION
from ressa.data.sample import Sample
from ressa.embedded.architectures import build
from ressa.embedded.captions import captions
from ressa.embedded.questions import questions
from ressa.embedded.scenes import render, sample_scene

SCRIPT = Path(__file__).parents[2] / "scripts" / "train_embedded.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_embedded", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_embedded"] = module
    spec.loader.exec_module(module)
    return module


def _rows(texts, tokenizer, length, end=False):
    rows = torch.zeros(len(texts), length, dtype=torch.long)
    for row, ids in zip(rows, tokenizer(texts, add_special_tokens=False)["input_ids"], strict=True):
        ids = [*ids, tokenizer.eos_token_id] if end else ids
        row[: len(ids)] = torch.tensor(ids)
    return rows


@pytest.mark.parametrize("name", ["embedded", "embedded-llava"])
def test_shared_image_encoding_gives_the_loss_of_the_models_own_forward(script, name):
    torch.manual_seed(0)
    model, processor = build(name)
    if name == "embedded":
        model.query_tokens.data.mul_(5)
    model.eval()
    recipe = script.Recipe()
    prompt = processor.tokenizer(CAPTION, add_special_tokens=False)["input_ids"]
    trainer = script.TRAINERS[name](model, recipe, prompt)
    scenes = [sample_scene("val", index) for index in (1, 4)]
    asked = [questions(scene)[:3] for scene in scenes]
    told = [captions(scene)[0] for scene in scenes]
    tokenizer = processor.tokenizer
    prompts = torch.stack(
        [_rows([QUESTION.format(q.text) for q in qs], tokenizer, script.WordTokens.slots[0]) for qs in asked]
    )
    answers = torch.stack(
        [_rows([q.answer for q in qs], tokenizer, script.WordTokens.slots[1], end=True) for qs in asked]
    )
    pixels = torch.stack([torch.from_numpy(render(scene).transpose(2, 0, 1).copy()) for scene in scenes])
    with torch.no_grad():
        loss, _ = trainer(
            pixels, prompts, answers, _rows(told, tokenizer, script.WordTokens.slots[2], end=True)
        )

    batcher = Batcher(processor, model.config)
    pictures = [Image.fromarray(render(scene)) for scene in scenes]
    question_batch = batcher.training(
        [
            Sample(picture, QUESTION.format(q.text), q.answer)
            for picture, qs in zip(pictures, asked, strict=True)
            for q in qs
        ]
    )
    caption_batch = batcher.training(
        [Sample(picture, CAPTION, caption) for picture, caption in zip(pictures, told, strict=True)]
    )
    with torch.no_grad():
        expected = model(**question_batch).loss + recipe.caption_weight * model(**caption_batch).loss
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)


def test_a_smoke_run_trains_resumes_and_writes_a_checkpoint_that_plain_transformers_loads(tmp_path):
    command = [sys.executable, str(SCRIPT), "embedded-llava", "--smoke", "--device", "cpu"]
    command += ["--output", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    first = subprocess.run([*command, "--stop-after", "0"], capture_output=True, text=True, check=True)
    assert "out of time" in first.stdout
    assert not (tmp_path / "out").exists()
    subprocess.run(command, capture_output=True, text=True, check=True)
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.bfloat16
    assert processor.tokenizer.convert_tokens_to_ids("<image>") == model.config.image_token_id
    assert (tmp_path / "out" / "training_log.jsonl").read_text().count('"stage": "vlm"') >= 4
