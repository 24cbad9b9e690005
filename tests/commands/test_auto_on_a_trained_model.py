"""`--allocation auto` on trained weights: the first two blocks of either tower of `embedded-llava`, pruned from the
command line, against uniform pruning, in words that were no part of the calibration."""

import json
import math

import pytest
from torch import nn

from ressa.allocation.outputs import Outputs
from ressa.anatomy import find_anatomy
from ressa.checkpoint import load
from ressa.commands.inputs import draw_samples
from ressa.data.inputs import batches

DEPTH = 2
TOWERS = ("vision", "language")


@pytest.fixture(scope="module")
def shallow(tmp_path_factory):
    """The folder of the cut model."""
    vlm = load("embedded-llava", dtype="float32")
    anatomy, config = find_anatomy(vlm.model), vlm.model.config
    for tower, part in zip(TOWERS, (config.vision_config, config.text_config), strict=True):
        layers = vlm.model.get_submodule(anatomy.blocks(tower)[0].name.rpartition(".")[0])
        assert isinstance(layers, nn.ModuleList)
        del layers[DEPTH:]
        part.num_hidden_layers = DEPTH
    folder = tmp_path_factory.mktemp("shallow") / "model"
    vlm.model.save_pretrained(folder)
    vlm.processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def distance(shallow, world):
    """Folder → KL to the dense model's words on samples of the test split, in nats a token."""
    dense = load(shallow)
    held_out = draw_samples(str(world.data), "test", 12, "mix", 0)
    outputs = Outputs(dense.model, batches(dense, held_out, 6))
    outputs.remember()

    def measure(folder):
        outputs.model = load(folder).model
        return outputs.mean_distance()

    return measure


@pytest.fixture
def prune(ressa, shallow, world, tmp_path):
    """Prune with these options; the folder and its manifest."""

    def run(name, *options):
        where = ("--method", "wanda", "--calibration", world.data, "--samples", 8, "--batch-size", 8)
        said = ressa("prune", shallow, "-o", tmp_path / name, *options, *where)
        assert said.status == 0, said.err
        assert "Every layer keeps to its pattern." in ressa("inspect", tmp_path / name).out
        return tmp_path / name, json.loads((tmp_path / name / "ressa.json").read_text())

    return run


def test_shares_at_70_percent_are_half_as_far_as_uniform_ones(prune, distance):
    auto, manifest = prune("auto", "--allocation", "auto", "--sparsity", "70%")
    uniform, _ = prune("uniform", "--sparsity", "70%")
    assert manifest["allocation"]["saved"]["parameters"] == pytest.approx(0.7, abs=1e-4)
    assert distance(auto) < distance(uniform) / 2


def test_choices_spend_a_budget_better_than_a_pattern_for_each_tower(prune, distance):
    budget = ("--vision", "6:8", "--language", "4:8")
    auto, manifest = prune("auto", "--allocation", "auto", "--choices", "6:8,4:8,2:4", *budget)
    by_tower, _ = prune("by-tower", *budget)
    pruned = [layer for layer in manifest["layers"] if layer["tower"] != "connector"]
    sizes = {tower: sum(math.prod(l["shape"]) for l in pruned if l["tower"] == tower) for tower in TOWERS}
    asked = (0.25 * sizes["vision"] + 0.5 * sizes["language"]) / sum(sizes.values())
    assert manifest["allocation"]["saved"]["parameters"] >= asked
    assert set(manifest["plan"].values()) <= {"6:8", "4:8", "2:4"}
    assert distance(auto) < distance(by_tower)
