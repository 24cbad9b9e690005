"""The contract of all families, for one of each kind; benchmarks/families.py runs it for all of them."""

import pytest
from zoo import FAMILIES, build, contract

from ressa.anatomy import find_anatomy

KINDS = {
    "aria": "experts, and a connector that attends",
    "blip": "a text decoder that attends to the picture",
    "clip": "two towers that are told apart by pairs",
    "ernie4_5_vl_moe": "experts for words and others for pictures",
    "fuyu": "no vision tower",
    "gemma4_shared_keys": "keys and values that blocks leave to later ones",
    "glm5_next": "tokens of several streams, linear attention",
    "kimi_k25": "latent attention, whose inputs have their tokens on the third axis",
    "llama4": "experts that are given all tokens",
    "mllama": "two chains in the vision tower, cross-attention in the language tower",
    "pix2struct": "patches, of which some are padding",
    "pp_formulanet": "no embeddings that it can name",
    "qwen3_vl": "a vision tower that feeds several blocks",
    "t5gemma2": "a decoder that attends to its own and the encoder's tokens at once",
    "vilt": "one transformer for words and patches",
    "vit_gpt2": "weights stored the other way round",
}


@pytest.fixture(scope="module", params=[family for family in KINDS if family in FAMILIES])
def subject(request):
    return contract.Subject(request.param)


@pytest.mark.parametrize("check", [check for check in contract.CHECKS if check != "reload"])
def test_it_holds(subject, check):
    contract.CHECKS[check](subject)


def test_it_is_read_again_by_plain_transformers(subject, tmp_path):
    contract.CHECKS["reload"](subject, tmp_path / "pruned")


def test_words_are_read_by_the_language_tower_where_what_decodes_reads_none():
    """Grounding-DINO decodes boxes; BERT reads its words."""
    anatomy = find_anatomy(build("grounding-dino"))
    assert [chain.name for chain in anatomy.chains("language")] == ["model.text_backbone.encoder.layer"]
    assert {"model.encoder.layers", "model.decoder.layers"} <= {c.name for c in anatomy.chains("connector")}
    assert not any(chain.reads_labels for chain in anatomy.chains())
