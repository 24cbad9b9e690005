"""`ressa bench` times a sparse model dense and packed, on a CPU too, and promises nothing there."""

import json

import pytest

from tests.commands.test_pack import PRUNE


@pytest.mark.parametrize("name", ["llava", "instructblip"])
def test_both_forms_are_timed_on_the_same_inputs_and_agree(name, world, ressa, tmp_path):
    pruned = tmp_path / "pruned"
    ressa("prune", getattr(world, name), "-o", pruned, "--calibration", world.data, *PRUNE)
    quick = ("--new-tokens", "3", "--rounds", "1", "--device", "cpu")
    said = ressa("bench", pruned, "--batch-sizes", "1,2", "--mode", "packed", *quick, "--json")
    data = json.loads(said.out)
    assert (said.status, data["device"]) == (0, "CPU")
    assert (
        [speed["batch"] for speed in data["dense"]] == [speed["batch"] for speed in data["packed"]] == [1, 2]
    )
    assert data["tokens_that_agree"] == [1.0, 1.0]
    assert data["packed"][0]["weights"] < data["dense"][0]["weights"]
    assert all(speed["decode"] > 0 and speed["first_token"] > 0 for speed in data["dense"] + data["packed"])
    assert ressa("pack", pruned, "-o", tmp_path / "packed").status == 0
    again = ressa("bench", tmp_path / "packed", *quick)
    assert "no kernels for this device" in again.out
    assert "Dense is the same folder, unpacked." in again.out
    assert "nothing to tune" in ressa("bench", tmp_path / "packed", *quick, "--tune").sentence


def test_what_cannot_be_timed_is_one_sentence(world, ressa):
    assert "ressa pruned or repaired" in ressa("bench", world.llava).sentence
    assert "write numbers" in ressa("bench", world.llava, "--batch-sizes", "one").sentence
    assert "write numbers" in ressa("bench", world.llava, "--batch-sizes", "0").sentence
    assert "greater than or equal to 2" in ressa("bench", world.llava, "--new-tokens", "1").sentence
    assert "No such folder" in ressa("bench", world.llava / "absent").sentence
