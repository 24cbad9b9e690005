"""`--dry-run`: what would be done and what it would take, from shapes alone."""

import json
import shutil

import pytest
import transformers as hf

from ressa.anatomy import find_anatomy
from ressa.calibration.statistics import Hessian
from ressa.checkpoint import load


def numbers(said) -> dict:
    assert said.status == 0, said.err
    return json.loads(said.out)


@pytest.mark.parametrize("name", ["llava", "instructblip"])
def test_what_pruning_would_do_is_what_it_does(ressa, world, name, tmp_path):
    source, output = getattr(world, name), tmp_path / "out"
    options = ("--calibration", world.data, "--samples", 4, "--connector", "2:4", "--device", "cpu")
    said = numbers(ressa("prune", source, "-o", output, *options, "--dry-run", "--json"))
    assert not list(tmp_path.iterdir())
    done = numbers(ressa("prune", source, "-o", output, *options, "--json"))
    assert said["layers"] == len(done["plan"])
    assert (
        said["memory"]["weights"]
        == said["read"]
        == sum(parameter.nbytes for parameter in load(source).model.parameters())
    )
    assert set(said["seconds"]) == {"load", "calibrate", "prune", "save"}


def test_what_repair_would_train(ressa, world, tmp_path):
    pruned = tmp_path / "pruned"
    calibration = ("--calibration", world.data, "--samples", 4, "--method", "magnitude")
    assert ressa("prune", world.llava, "-o", pruned, *calibration).status == 0
    options = ("--data", world.data, "--samples", 100, "--batch-size", 16, "--device", "cpu")
    said = numbers(ressa("repair", pruned, "-o", tmp_path / "out", *options, "--dry-run", "--json"))
    model = load(pruned).model
    anatomy, ranks = find_anatomy(model), {"vision": 4, "connector": 2, "language": 8}
    shapes = {name: model.get_submodule(name).weight.shape for name in anatomy.linears()}
    assert said["trained"] == sum(
        ranks[anatomy.tower_of(name)] * sum(shape) for name, shape in shapes.items()
    )
    assert said["steps"] == 7
    timed = ressa(
        "repair", pruned, "-o", tmp_path / "out", *options, "--option", "minutes=3", "--dry-run", "--json"
    )
    assert numbers(timed)["seconds"]["train"] == 180
    texts = ("--text", "own", "--text-share", 0.5)
    told = numbers(ressa("repair", pruned, "-o", tmp_path / "out", *options, *texts, "--dry-run", "--json"))
    assert told["steps"] == 13, "100 samples and 100 texts"
    assert [path.name for path in tmp_path.iterdir()] == ["pruned"]


def test_a_model_of_seventy_billion_is_estimated_from_its_config_alone(ressa, world, tmp_path):
    text = hf.LlamaConfig(
        hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64,
        num_key_value_heads=8, vocab_size=128256,
    )  # fmt: skip
    vision = hf.CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336,
        patch_size=14,
    )  # fmt: skip
    config = hf.LlavaConfig(vision_config=vision, text_config=text, image_token_index=3, dtype="bfloat16")
    config.architectures = ["LlavaForConditionalGeneration"]
    config.save_pretrained(tmp_path / "large")
    output = ("-o", tmp_path / "out", "--device", "cpu")
    said = numbers(
        ressa("prune", tmp_path / "large", *output, "--method", "sparsegpt", "--dry-run", "--json")
    )
    block = 2 * (2 * 8192**2 + 2 * 8192 * 1024 + 3 * 8192 * 28672 + 2 * 8192)  # bytes in bfloat16
    assert said["memory"]["the largest block"] == block
    assert said["read"] > 80 * block
    # q, k and v share their inputs, and so do the gate and what it gates.
    assert said["memory"]["statistics of a block"] == sum(map(Hessian.size, (8192, 28672)))
    assert 0.5 < Hessian.size(28672) / (8 * 28672**2) < 0.54  # half of a symmetric matrix in fp64, in bands
    spoken = ressa("prune", tmp_path / "large", *output, "--dry-run")
    assert "its weights would stay on disk" in spoken.out
    assert "Nothing was loaded" in spoken.out


def test_what_will_be_asked_is_counted_where_the_data_are(ressa, world):
    asked = ("evaluate", world.llava, "--data", world.data, "--device", "cpu", "--limit", 2)
    dry, real = ressa(*asked, "--dry-run"), json.loads(ressa(*asked, "--json").out)
    table = {row[1]: row[3] for row in (line.split() for line in dry.out.splitlines()) if row[:1] == ["│"]}
    for task, found in real["tasks"].items():
        if task != "retrieval":
            assert int(table[task]) == found["n"], task


def test_pictures_that_are_not_there_are_missing(ressa, world, tmp_path):
    from tests.data.official import coco

    coco(tmp_path, {"val2014": range(3)})
    shutil.rmtree(tmp_path / "val2014")
    said = ressa("evaluate", world.llava, "--data", tmp_path, "--tasks", "caption", "--dry-run")
    assert said.status == 0
    assert "Missing" in said.out
    assert "put the folder val2014 there" in " ".join(said.out.split())
