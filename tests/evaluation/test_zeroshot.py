"""Zero-shot classification picks the class that the model itself finds nearest, and counts rightly."""

import json
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from dual.models import DUAL
from PIL import Image
from torch.nn import functional as F

from ressa.errors import UsageError
from ressa.evaluation import evaluate
from tests.data.vlms import VLMS

CLASSES = ("red", "blue", "cat", "dog", "bird", "house", "tree")


@dataclass
class Loaded:
    model: Any
    processor: Any


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two pictures of each class but the last, which has one."""
    root = tmp_path_factory.mktemp("classes")
    for number, name in enumerate(CLASSES):
        for copy in range(2 if name != "tree" else 1):
            path = root / "test" / name / f"{copy}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (35 * number, 255 - 100 * copy, 90 + 20 * number)).save(path)
    return root


def pictures(folder):
    """Pictures and the numbers of their classes, in the order of the classes' names."""
    names = sorted(CLASSES)
    paths = [
        (path, names.index(name)) for name in names for path in sorted((folder / "test" / name).iterdir())
    ]
    return [Image.open(path).convert("RGB") for path, _ in paths], torch.tensor(
        [number for _, number in paths]
    )


def scores(model, processor, folder, templates):
    """CLIP's own way: features of all prompts, normalised, averaged, normalised again."""
    images, own = pictures(folder)
    blank = [images[0]] * len(CLASSES)
    with torch.no_grad():
        seen = model(**processor(images=images, text=["a"] * len(images), padding=True, return_tensors="pt"))
        read = [
            model(
                **processor(
                    images=blank,
                    text=[template.format(name) for name in sorted(CLASSES)],
                    padding=True,
                    return_tensors="pt",
                )
            ).text_embeds
            for template in templates
        ]
    classes = F.normalize(torch.stack(read).mean(0), dim=-1)
    return seen.image_embeds @ classes.T, own


@pytest.mark.parametrize("templates", [["a photo of a {}"], ["a {}", "the picture of two {}"]])
def test_the_nearest_class_is_the_prediction(folder, templates):
    model, processor = DUAL["clip"]()
    found, own = scores(model, processor, folder, templates)
    result = evaluate(
        Loaded(model, processor), folder, ["zeroshot"], batch_size=4, class_prompt="|".join(templates)
    )["tasks"]["zeroshot"]
    right = (found.argmax(1) == own).float()
    assert result["score"] == pytest.approx(100 * right.mean().item())
    five = (found.topk(5).indices == own[:, None]).any(1).float()
    assert result["top-5"] == pytest.approx(100 * five.mean().item())
    each = torch.stack([right[own == number].mean() for number in range(len(CLASSES))])
    assert result["mean per class"] == pytest.approx(100 * each.mean().item())
    assert (result["n"], result["classes"], result["scoring"]) == (13, 7, "embeddings")
    assert result["by_class"]["tree"]["n"] == 1


@pytest.mark.parametrize("name", ["siglip", "blip", "colpali"])
def test_every_kind_of_dual_encoder_chooses(folder, name):
    model, processor = DUAL[name]()
    result = evaluate(Loaded(model, processor), folder, ["zeroshot"], class_prompt="a {}|the {}")
    assert result["tasks"]["zeroshot"]["scoring"] == "embeddings"


def test_a_model_that_writes_chooses_by_likelihood(folder):
    model, processor = VLMS["llava"]()
    result = evaluate(Loaded(model, processor), folder, ["zeroshot"])["tasks"]["zeroshot"]
    assert result["scoring"] == "likelihood, prior-corrected"
    assert 0 <= result["score"] <= result["top-5"] <= 100


def test_some_of_the_pictures_choose_among_all_classes(folder):
    model, processor = DUAL["clip"]()
    result = evaluate(Loaded(model, processor), folder, ["zeroshot"], limit=3)["tasks"]["zeroshot"]
    assert (result["n"], result["classes"]) == (3, 7)


def test_a_dual_encoder_leaves_out_what_it_cannot_do(folder, tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (32, 32), "red").save(tmp_path / "images" / "a.png")
    Image.new("RGB", (32, 32), "blue").save(tmp_path / "images" / "b.png")
    said = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
        "annotations": [{"image_id": 1, "caption": "red"}, {"image_id": 2, "caption": "blue"}],
    }
    (tmp_path / "captions_test.json").write_text(json.dumps(said))
    vlm = Loaded(*DUAL["clip"]())
    assert list(evaluate(vlm, tmp_path, ["caption", "retrieval"])["tasks"]) == ["retrieval"]
    with pytest.raises(UsageError, match="cannot generate text: evaluate it on retrieval or zeroshot"):
        evaluate(vlm, tmp_path, ["caption"])


def test_a_prompt_needs_a_place_for_the_class(folder):
    with pytest.raises(UsageError, match=r"needs one \{\}"):
        evaluate(Loaded(*DUAL["clip"]()), folder, ["zeroshot"], class_prompt="a {}|a photo")
