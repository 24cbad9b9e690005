"""docs/python.md: its examples run as they are printed, on a tiny model."""

import copy
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

import ressa
from ressa.checkpoint import measure, read_masks
from ressa.repairing.sparse_lora_layer import SparseLoraLinear
from ressa.sparsity import NM, Plan
from tests.data.tiny_folders import tiny_dataset
from tests.data.vlms import VLMS

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
OWN_MODEL, SPARSE_LORA, LOAD_AND_SCORE, SAVE, RECIPES = re.findall(
    r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.M | re.S
)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """What a person has before the page begins: a model, its processor, pictures with captions."""
    monkeypatch.chdir(tmp_path)
    model, processor = VLMS["llava"]()
    pairs = [(Image.new("RGB", (24, 24), colour), f"a {colour} dog") for colour in ("red", "blue")] * 2
    return {"model": model, "processor": processor, "pairs": pairs, "image": pairs[0][0]}


def shortened(text):
    return text.replace("steps=500", "steps=2, device='cpu'")


def test_the_example_on_ones_own_model(mine):
    exec(shortened(OWN_MODEL), mine)
    towers = measure(mine["model"], ressa.find_anatomy(mine["model"]))
    assert towers == {"vision": 0.5, "connector": 0.0, "language": 0.5}
    assert len(mine["repaired"].history) == 2
    assert (Path("sparse") / "config.json").is_file()

    exec(SAVE, mine)
    assert read_masks("runs/pruned").keys() == mine["pruned"].masks.keys()
    assert len(OWN_MODEL.strip().splitlines()) <= 11

    exec(SPARSE_LORA, mine)
    layers = [module for module in mine["student"].modules() if isinstance(module, SparseLoraLinear)]
    assert len(layers) == len(mine["pruned"].masks)

    tiny_dataset(Path("coco"), "val")
    exec(LOAD_AND_SCORE.replace("import ressa\n", ""), mine)
    assert set(mine["scores"]["tasks"]) == {"vqa", "caption"}


def test_the_readme_s_example_on_ones_own_model(mine):
    text = (PAGE.parents[1] / "README.md").read_text()
    (example,) = (
        block for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S) if "ressa.prune" in block
    )
    exec(shortened(example), mine)
    assert len(mine["repaired"].history) == 2


def test_the_commands_as_objects_are_importable():
    exec("\n".join(line for line in RECIPES.splitlines() if "import" in line), {})


@pytest.mark.parametrize(
    "asked",
    ["2:4", NM(2, 4), {"vision": "2:4", "language": NM(2, 4), "connector": "dense"}],
    ids=str,
)
def test_ways_to_say_one_plan(mine, asked):
    model = mine["model"]
    linears = ressa.find_anatomy(model).linears
    plan = Plan(dict.fromkeys([*linears("vision"), *linears("language")], NM(2, 4)))
    twin = copy.deepcopy(model)
    said = ressa.prune(model, [], asked, method="magnitude")
    spelt = ressa.prune(twin, [], plan, method="magnitude")
    assert said.plan == spelt.plan == plan
    assert all(torch.equal(said.masks[name], spelt.masks[name]) for name in plan)


@pytest.mark.parametrize("asked", ["4:2", "half", 1.5, {"sight": "2:4"}, {"vision": "dense"}, {}], ids=str)
def test_a_plan_that_cannot_be_is_refused_before_anything_changes(mine, asked):
    before = copy.deepcopy(mine["model"].state_dict())
    with pytest.raises(ressa.UsageError):
        ressa.prune(mine["model"], [], asked, method="magnitude")
    assert all(torch.equal(before[name], value) for name, value in mine["model"].state_dict().items())
