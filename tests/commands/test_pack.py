"""`ressa pack`, `ressa unpack` and `--packed`, as a user types them."""

import json

import pytest

from ressa.checkpoint import count_sparsity
from ressa.runtime.format import is_packed
from tests.packed_folders import contents

PRUNE = ("--method", "magnitude", "--samples", "2", "--batch-size", "2", "--device", "cpu")


@pytest.fixture
def pruned(world, ressa, tmp_path):
    folder = tmp_path / "pruned"
    assert ressa("prune", world.llava, "-o", folder, "--calibration", world.data, *PRUNE).status == 0
    return folder


def test_packing_and_unpacking_are_done_once_and_undone_bit_for_bit(pruned, ressa, tmp_path):
    said = ressa("pack", pruned, "-o", tmp_path / "packed", "--json")
    data = json.loads(said.out)
    assert said.status == 0
    assert data["weights"][1] < 0.66 * data["weights"][0]
    assert "held this result already" in ressa("pack", pruned, "-o", tmp_path / "packed").out
    assert ressa("unpack", tmp_path / "packed", "-o", tmp_path / "again").status == 0
    assert contents(tmp_path / "again") == contents(pruned)
    assert "held this result already" in ressa("unpack", tmp_path / "packed", "-o", tmp_path / "again").out


def test_what_is_there_is_replaced_only_when_that_is_said(pruned, ressa, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine").write_text("mine")
    said = ressa("pack", pruned, "-o", other)
    assert (said.status, (other / "mine").read_text()) == (2, "mine")
    assert "--force" in said.sentence
    assert ressa("pack", pruned, "-o", other, "--force").status == 0
    assert is_packed(other)
    assert "is a file" in ressa("pack", pruned, "-o", other / "config.json", "--force").sentence
    assert ressa("pack", pruned, "-o", pruned, "--force").status == 2
    assert ressa("pack", pruned, "-o", tmp_path, "--force").status == 2


def test_wrong_folders_are_one_sentence(world, pruned, ressa, tmp_path):
    assert "no ressa.json" in ressa("pack", world.llava, "-o", tmp_path / "out").sentence
    assert "is not packed" in ressa("unpack", pruned, "-o", tmp_path / "out").sentence
    assert "No such folder" in ressa("pack", tmp_path / "nothing", "-o", tmp_path / "out").sentence
    assert not (tmp_path / "out").exists()


def test_a_packed_result_is_inspected_evaluated_repaired_and_pruned_like_any_other(world, ressa, tmp_path):
    packed, data = tmp_path / "packed", ("--data", world.data)
    said = ressa("prune", world.llava, "-o", packed, "--calibration", world.data, "--packed", *PRUNE)
    assert said.status == 0
    assert is_packed(packed)
    assert count_sparsity(packed).holds
    assert [path.name for path in tmp_path.iterdir()] == ["packed"]
    assert "Every layer keeps to its pattern" in ressa("inspect", packed).out
    assert ressa("evaluate", packed, *data, "--tasks", "vqa", "--limit", "1").status == 0
    quick = ("--samples", "4", "--batch-size", "2", "--no-warm-start", "--device", "cpu")
    repaired = ressa("repair", packed, "-o", tmp_path / "repaired", *data, *quick, "--packed")
    assert repaired.status == 0, repaired.err
    assert is_packed(tmp_path / "repaired")
    assert count_sparsity(tmp_path / "repaired").holds
    denser = ("--calibration", world.data, "--pattern", "1:4", "--keep-zeros", *PRUNE)
    assert ressa("prune", packed, "-o", tmp_path / "sparser", *denser).status == 0
    assert not is_packed(tmp_path / "sparser")
    again = ("--calibration", world.data, "--keep-zeros", *PRUNE, "--method", "sparsegpt")
    assert ressa("prune", packed, "-o", tmp_path / "again", *again).status == 0
    said = ressa(
        "prune", packed, "-o", tmp_path / "streamed", "--calibration", world.data, "--stream", *PRUNE
    )
    assert "ressa unpack" in said.sentence


def test_a_repair_that_fills_the_zeros_has_nothing_to_pack(pruned, ressa, tmp_path):
    said = ressa(
        "repair", pruned, "-o", tmp_path / "out", "--packed", "--option", "method=lora", "--no-warm-start"
    )
    assert said.status == 2
    assert "leave out 'packed'" in said.sentence
