"""A result's model card: what it says is what the manifest counted, and the hub can read it."""

import shutil

import pytest
from huggingface_hub import EvalResult, ModelCard
from transformers import CLIPConfig

from ressa.checkpoint import MANIFEST, Manifest, add_scores, load, pack_folder, save, unpack_folder
from ressa.checkpoint.card import BASE_CARD, CARD, base_of, write_card
from ressa.warned import RessaWarning
from tests.data.vlms import VLMS

OWN = """---
license: other
license_name: llama2
license_link: https://example.org/licence
language: [en, de]
tags: [vision, llava]
base_model: somebody/else
---
# A base
"""


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A dense model's folder without any card."""
    folder = tmp_path_factory.mktemp("models") / "dense"
    model, processor = VLMS["llava"]()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def with_files(plain, folder, **files):
    shutil.copytree(plain, folder)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


def saved(source, folder, **fields):
    """A result of nothing pruned, which has all that a card is made of."""
    values = {"kind": "pruned", "source": str(source), **fields}
    save(folder, load(source), manifest=Manifest(**values), masks={})
    return folder


def card_of(folder):
    return ModelCard((folder / CARD).read_text())


def test_the_base_s_card_and_licence_are_kept(plain, tmp_path):
    source = with_files(plain, tmp_path / "dense", README_md=OWN, LICENSE_txt="Do as you like.\n")
    made = saved(source, tmp_path / "pruned", base="org/llava-tiny")
    assert (made / BASE_CARD).read_text() == OWN
    assert (made / "LICENSE.txt").read_text() == "Do as you like.\n"
    data = card_of(made).data
    assert (data.license, data.license_name) == ("other", "llama2")
    assert data.license_link == "https://example.org/licence"
    assert data.language == ["en", "de"]
    assert data.base_model == "org/llava-tiny"  # its own base is another model
    assert data.pipeline_tag == "image-text-to-text"
    assert data.library_name == "transformers"
    assert data.tags[:2] == ["ressa", "sparse"]
    assert {"vision", "llava"} <= set(data.tags)
    # Made of a result, a card is written anew, and the base's stays the base's.
    again = saved(made, tmp_path / "again", base="org/llava-tiny", kind="repaired")
    assert (again / BASE_CARD).read_text() == OWN
    assert "pruned and repaired" in card_of(again).text
    assert card_of(again).data.license_name == "llama2"
    # A result without a card of ressa's holds the base's.
    (again / BASE_CARD).replace(again / CARD)
    assert (saved(again, tmp_path / "late") / BASE_CARD).read_text() == OWN


def test_a_licence_without_a_card_is_pointed_to(plain, tmp_path):
    source = with_files(plain, tmp_path / "dense", LICENSE="Do as you like.\n")
    data = card_of(saved(source, tmp_path / "pruned")).data
    assert (data.license, data.license_link) == ("other", "LICENSE")


def test_a_dual_encoder_s_card(tmp_path):
    config = CLIPConfig(
        text_config={
            "hidden_size": 8,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
        },
        vision_config={
            "hidden_size": 8,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
        },
    )
    config.architectures = ["CLIPModel"]
    config.save_pretrained(tmp_path)
    write_card(tmp_path, Manifest(kind="pruned", source="org/clip"))
    assert card_of(tmp_path).data.pipeline_tag == "zero-shot-image-classification"
    assert "from transformers import AutoProcessor, CLIPModel" in card_of(tmp_path).text


def test_nothing_is_made_up(plain, tmp_path):
    made = saved(plain, tmp_path / "pruned")
    assert not (made / BASE_CARD).exists()
    card = card_of(made)
    assert card.data.license is None
    assert card.data.base_model is None  # a folder's name is nothing that the hub knows
    assert "names none" in card.text


def test_a_card_that_is_no_yaml_is_kept_and_said(plain, tmp_path):
    source = with_files(plain, tmp_path / "dense", README_md="---\nlicense: [mit\n---\n# A base\n")
    with pytest.warns(RessaWarning, match="front matter"):
        made = saved(source, tmp_path / "pruned")
    assert "[mit" in (made / BASE_CARD).read_text()
    assert card_of(made).data.license is None


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("org/model", "org/model"),
        ("embedded", "embedded"),
        ("/models/llava", "llava"),
        ("/root/.cache/huggingface/hub/models--org--a-b/snapshots/0123abc", "org/a-b"),
    ],
)
def test_what_a_base_is_called(name, base):
    assert base_of(Manifest(kind="pruned", source="/x", base=name)) == base


def test_scores_take_the_place_of_earlier_ones_in_a_card_that_somebody_went_on_with(plain, tmp_path):
    made = saved(plain, tmp_path / "pruned")
    (made / CARD).write_text((made / CARD).read_text() + "\nMy own words.\n")
    for value in (71.5, 72.5):
        result = EvalResult("visual-question-answering", "coco", "COCO", "accuracy", value)
        add_scores(made, f"| | pruned |\n|---|---:|\n| VQA | {value} |", [result], ["On ./coco."])
    text = card_of(made).content
    assert text.count("## Scores") == 1
    assert "72.5 |" in text
    assert "71.5" not in text
    assert text.endswith("My own words.\n")
    data = card_of(made).data
    assert [each.metric_value for each in data.eval_results] == [72.5]
    assert data.model_name == "pruned"


def test_a_packed_folder_s_card_says_what_it_needs(tmp_path):
    from ressa.recipe import PruneRecipe
    from ressa.run import run_recipe

    run_recipe(PruneRecipe(model="embedded-llava", output=tmp_path / "pruned", method="magnitude"))
    pack_folder(tmp_path / "pruned", tmp_path / "packed")
    unpack_folder(tmp_path / "packed", tmp_path / "plain")
    cards = [(tmp_path / name / CARD).read_text() for name in ("pruned", "packed", "plain")]
    assert "import ressa" in cards[1]
    assert "import ressa" not in cards[0]
    assert cards[2] == cards[0]
    assert "| language | 2:4 | 50.00% |" in cards[0]
    assert (tmp_path / "packed" / MANIFEST).is_file()
    assert "cc-by-sa-4.0" in cards[0]
