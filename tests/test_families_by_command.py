"""Families with their real processors through the commands, one of each kind; benchmarks/families.py takes all."""

import pytest
from zoo.command_line import scenes, through

KINDS = {
    "florence2": "an encoder-decoder that reads the picture among the words",
    "gemma3": "types of tokens, and layers of two kinds",
    "idefics3": "a list of pictures for each text",
    "pix2struct": "no words are read, and pictures are patches",
    "vit_gpt2": "no words are read, and weights are stored the other way round",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return scenes(tmp_path_factory.mktemp("scenes") / "ten")


@pytest.mark.parametrize("family", KINDS)
def test_it_is_pruned_repaired_and_evaluated(family, data, tmp_path):
    assert through(family, data, tmp_path).keys() >= {"caption", "retrieval"}
