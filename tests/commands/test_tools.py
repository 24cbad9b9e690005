"""A result in the tools that people use: transformers' pipeline and generate, PEFT, and a step of TRL's SFT."""

import importlib.util

import peft
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

from ressa import SparseLoraConfig
from ressa.checkpoint import read_masks
from ressa.recipe import PruneRecipe
from ressa.repairing import load_adapter
from ressa.run import run_recipe


@pytest.fixture(scope="module", params=["embedded", "embedded-llava"])
def result(request, tmp_path_factory):
    output = tmp_path_factory.mktemp("tools") / f"{request.param}-pruned"
    run_recipe(PruneRecipe(model=request.param, output=output, method="magnitude", pattern="2:4"))
    return output


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    from ressa.embedded.dataset import write_dataset

    folder = tmp_path_factory.mktemp("picture")
    write_dataset(folder, 0, {"test": 2})
    return sorted(folder.rglob("*.png"))[0]


def zeros_of(model, masks):
    """How many of the weights that the masks say are zero are not."""
    return sum(int((model.get_submodule(name).weight[~masks[name]] != 0).sum()) for name in masks)


def batch(folder, picture, target="cat"):
    processor = AutoProcessor.from_pretrained(folder)
    prompt = "<image> What is it?" if "llava" in folder.name else "What is it?"
    inputs = processor(images=Image.open(picture), text=prompt, return_tensors="pt")
    labels = processor.tokenizer(target, return_tensors="pt").input_ids
    if "llava" in folder.name:
        ids = torch.cat([inputs["input_ids"], labels], 1)
        seen = torch.full_like(inputs["input_ids"], -100)
        return {
            **inputs,
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "labels": torch.cat([seen, labels], 1),
        }
    return {**inputs, "labels": labels}


def stepped(student, inputs):
    """The model after one step of plain SGD on whatever it trains."""
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    for _ in range(2):  # LoRA's B is zero at first
        student(**inputs).loss.backward()
        torch.optim.SGD(trained, 0.5).step()
    return student


def test_the_pipeline_says_what_generate_says(result, picture):
    prompt = f"{'<image> ' if 'llava' in result.name else ''}What is in the picture? Short answer:"
    pipe = pipeline("image-text-to-text", model=str(result), device="cpu")
    image = Image.open(picture)
    greedy = {"max_new_tokens": 8, "do_sample": False}
    (said,) = pipe(images=image, text=prompt, generate_kwargs=greedy)
    inputs = pipe.processor(images=image, text=prompt, return_tensors="pt")
    ids = pipe.model.generate(**inputs, **greedy)
    if "llava" in result.name:
        ids = ids[:, inputs["input_ids"].shape[1] :]
    answer = pipe.processor.batch_decode(ids, skip_special_tokens=True)[0].strip()
    assert answer
    assert said["generated_text"].endswith(answer)


def test_a_sparse_adapter_is_loaded_and_merged_with_every_zero_in_place(result, picture, tmp_path):
    masks = read_masks(result)
    names = [name for name in masks if "language" in name][:6]
    model = AutoModelForImageTextToText.from_pretrained(result)
    config = SparseLoraConfig(masks={name: masks[name] for name in names}, target_modules=names, r=4)
    student = stepped(peft.get_peft_model(model, config), batch(result, picture))
    student.save_pretrained(tmp_path / "adapter")
    again = load_adapter(AutoModelForImageTextToText.from_pretrained(result), tmp_path / "adapter")
    merged = again.merge_and_unload()
    plain = AutoModelForImageTextToText.from_pretrained(result)
    assert zeros_of(merged, masks) == 0
    assert not torch.equal(merged.get_submodule(names[0]).weight, plain.get_submodule(names[0]).weight)


def test_an_ordinary_adapter_is_loaded_and_merging_it_fills_the_zeros(result, picture, tmp_path):
    """As docs/tools.md says; unmerged it leaves them alone."""
    masks = read_masks(result)
    names = [name for name in masks if "language" in name][:6]
    model = AutoModelForImageTextToText.from_pretrained(result)
    student = stepped(
        peft.get_peft_model(model, peft.LoraConfig(target_modules=names, r=4)), batch(result, picture)
    )
    student.save_pretrained(tmp_path / "adapter")
    loaded = peft.PeftModel.from_pretrained(
        AutoModelForImageTextToText.from_pretrained(result), tmp_path / "adapter"
    )
    inside = loaded.get_base_model()
    assert zeros_of(inside, {name: masks[name] for name in masks if name not in names}) == 0
    assert all((inside.get_submodule(name).base_layer.weight[~masks[name]] == 0).all() for name in names)
    assert zeros_of(loaded.merge_and_unload(), masks) > 100


@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="trl is not installed")
def test_a_step_of_sft_moves_no_zero_under_a_sparse_adapter(result, picture, tmp_path):
    if "llava" not in result.name:
        pytest.skip("TRL trains decoders; InstructBLIP's T5 is none")
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    masks = read_masks(result)
    names = [name for name in masks if "language" in name][:6]
    rows = [
        {
            "images": [Image.open(picture).convert("RGB")],
            "prompt": "<image> What is it?",
            "completion": " cat",
        }
    ] * 2
    processor = AutoProcessor.from_pretrained(result)
    settings = SFTConfig(
        str(tmp_path), max_steps=1, per_device_train_batch_size=2, report_to="none", use_cpu=True, max_length=None,
        learning_rate=0.1, save_strategy="no", bf16=False, gradient_checkpointing=False,
    )  # fmt: skip
    trainer = SFTTrainer(
        AutoModelForImageTextToText.from_pretrained(result),
        settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=processor,
        peft_config=SparseLoraConfig(masks={name: masks[name] for name in names}, target_modules=names, r=4),
    )
    trainer.train()
    assert trainer.state.global_step == 1
    changed = [name for name, p in trainer.model.named_parameters() if "lora_B" in name and p.any()]
    assert len(changed) == len(names)
    assert zeros_of(trainer.model.merge_and_unload(), masks) == 0
