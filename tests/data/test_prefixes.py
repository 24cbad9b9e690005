"""Captions to be continued are cut and read as LAVIS does."""

import random

import pytest
from data.tiny_folders import tiny_dataset

from ressa.data import training_samples
from ressa.data.prefixes import cut_caption, read_caption, read_question
from ressa.data.sample import Sample


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("A dog, on the GRASS.", "a dog, on the grass"),
        ('Two  "cats" (asleep)!\n', "two cats asleep"),
        ("one;two:three*four#five~six", "one two three four five six"),
        ("  ", ""),
        (" ".join(map(str, range(60))), " ".join(map(str, range(50)))),
    ],
)
def test_captions_are_read_as_by_blip_caption(text, read):
    assert read_caption(text) == read


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("What is on the GRASS?", "what is on the grass?"),
        ('Who said "stop": (he) or she? ', "who said stop he or she?"),
        ("a;b:c*d#e~f!", "abcdef"),
        (" ".join(map(str, range(60))), " ".join(map(str, range(50)))),
    ],
)
def test_questions_are_read_as_by_blip_question(text, read):
    assert read_question(text) == read


def test_the_cut_falls_anywhere_in_the_first_half():
    rng = random.Random(0)
    text = "a dog on the grass"
    cuts = [cut_caption(Sample(None, "Describe:", "A dog on the grass.", "7"), rng) for _ in range(400)]
    assert all(each.prompt + each.target == text and each.id == "7" for each in cuts)
    assert {len(each.prompt) for each in cuts} == set(range(1, len(text) // 2 + 1))


def test_what_cannot_be_cut_stays_whole():
    whole = Sample(None, "Describe:", "a")
    assert cut_caption(whole, random.Random(0)) == whole


def test_as_a_mixture(tmp_path):
    folder = tiny_dataset(tmp_path / "tiny", images=6)
    plain = training_samples(folder, "test", 6, 3, "captions")
    found = training_samples(folder, "test", 6, 3, "prefix-captions")
    assert found == training_samples(folder, "test", 6, 3, "prefix-captions")
    assert {each.prompt + each.target for each in found} == {read_caption(each.target) for each in plain}
