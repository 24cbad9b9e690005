"""Dual encoders with their real processors go through the command line from folder to folder."""

import json

import pytest
import torch
from dual.models import DUAL
from PIL import Image

from ressa.checkpoint import load
from ressa.data.pairs import PairBatcher
from ressa.dual import DualEncoder
from ressa.embedded.dataset import write_dataset

COLOURS = ["red", "blue", "green", "white", "black", "yellow"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    write_dataset(root, 0, {"train": 24, "calibration": 6, "test": 6})
    return root


def saved(name, folder):
    model, processor = DUAL[name]()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["clip", "siglip2", "blip", "colpali", "colqwen2"])
def test_pruned_repaired_evaluated_and_inspected(name, scenes, tmp_path, ressa):
    dense, pruned, repaired = saved(name, tmp_path / "dense"), tmp_path / "pruned", tmp_path / "repaired"
    done = ressa("prune", dense, "-o", pruned, "--calibration", scenes, "--samples", 6)
    assert done.status == 0, done.err
    quick = [f"--option={key}=2" for key in ("reconstruct_epochs", "checkpoints")]
    done = ressa(
        "repair",
        pruned,
        "-o",
        repaired,
        "--data",
        scenes,
        "--samples",
        96,
        "--batch-size",
        16,
        *quick,
        "--json",
    )
    assert done.status == 0, done.err
    training = json.loads(done.out)["training"]
    assert training["objective"] == "pairs"
    assert {"loss", "TR@1", "IR@1"} <= set(training["held_back"]["repaired"])
    assert ("ITM" in training["held_back"]["repaired"]) == (name == "blip")
    assert ("itm_loss" in training["history"][0]) == (name == "blip")
    done = ressa("inspect", repaired, "--json")
    assert done.status == 0, done.err
    towers = json.loads(done.out)["towers"]
    assert towers["vision"] == towers["language"] == 0.5
    done = ressa(
        "evaluate", repaired, "--data", scenes, "--tasks", "caption,retrieval", "--pool", 6, "--json"
    )
    assert done.status == 0, done.err
    tasks = json.loads(done.out)["tasks"]
    assert list(tasks) == ["retrieval"]  # none of them writes captions
    assert {"TR@1", "TR@5", "TR@10", "IR@1", "IR@5", "IR@10"} <= set(tasks["retrieval"])


def test_repair_brings_embeddings_nearer_to_the_dense_models(scenes, tmp_path, ressa):
    dense, pruned, repaired = saved("clip", tmp_path / "dense"), tmp_path / "pruned", tmp_path / "repaired"
    assert ressa("prune", dense, "-o", pruned, "--calibration", scenes, "--samples", 6).status == 0
    done = ressa("repair", pruned, "-o", repaired, "--data", scenes, "--samples", 96, "--option=objective=kd")
    assert done.status == 0, done.err
    from ressa.data import training_samples

    asked = training_samples(scenes, "test", 24)
    found = {}
    for folder in (dense, pruned, repaired):
        vlm = load(folder)
        batch = PairBatcher(vlm.model, vlm.processor).training(asked)
        with torch.no_grad():
            embed = DualEncoder(vlm.model, vlm.processor).embed
            found[folder.name] = embed(lambda given, model=vlm.model: model(**given), vlm.model, batch)
    away = {
        name: (found[name].images - found["dense"].images).norm()
        + (found[name].texts - found["dense"].texts).norm()
        for name in ("pruned", "repaired")
    }
    assert away["repaired"] < 0.7 * away["pruned"]


def test_pictures_alone_repair_the_vision_tower(tmp_path, ressa):
    pictures = tmp_path / "pictures"
    for number, colour in enumerate(COLOURS):
        path = pictures / "train" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 32 + number), colour).save(path)
    dense, pruned, repaired = saved("clip", tmp_path / "dense"), tmp_path / "pruned", tmp_path / "repaired"
    refused = ressa("prune", dense, "-o", pruned, "--calibration", pictures)
    assert refused.status == 2
    assert "the language tower cannot be calibrated" in refused.sentence
    done = ressa("prune", dense, "-o", pruned, "--calibration", pictures, "--language", "dense")
    assert done.status == 0, done.err
    done = ressa(
        "repair", pruned, "-o", repaired, "--data", pictures, "--json", "--option=reconstruct_epochs=2"
    )
    assert done.status == 0, done.err
    assert "the vision tower alone is repaired" in done.err
    assert json.loads(done.out)["training"]["objective"] == "none"
    before, after = load(pruned).model.state_dict(), load(repaired).model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("vision_model.encoder") for name in changed)


def test_class_names_are_pairs(tmp_path, ressa):
    classes = tmp_path / "classes"
    for number, colour in enumerate(COLOURS * 2):
        path = classes / "train" / colour / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 32 + number), colour).save(path)
    dense, pruned, repaired = saved("clip", tmp_path / "dense"), tmp_path / "pruned", tmp_path / "repaired"
    assert ressa("prune", dense, "-o", pruned, "--calibration", classes).status == 0
    done = ressa(
        "repair", pruned, "-o", repaired, "--data", classes, "--json", "--option=reconstruct_epochs=1"
    )
    assert done.status == 0, done.err
    assert json.loads(done.out)["training"]["samples"] == 12


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--mixture", "qa"], "'vqa' has no texts that say what is in one"),
        (["--batch-size", 1], "give it a batch size of 2 or more"),
        (["--option=hidden_weight=1"], "leave it at 0"),
    ],
)
def test_what_a_dual_encoder_cannot_be_told(options, sentence, scenes, tmp_path, ressa):
    dense, pruned = saved("clip", tmp_path / "dense"), tmp_path / "pruned"
    assert ressa("prune", dense, "-o", pruned, "--calibration", scenes, "--samples", 6).status == 0
    refused = ressa("repair", pruned, "-o", tmp_path / "repaired", "--data", scenes, *options)
    assert refused.status == 2
    assert sentence in refused.sentence
    assert not (tmp_path / "repaired").exists()
