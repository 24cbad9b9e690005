"""A packed folder is small, whole or absent, counted like any other, and gives every bit back."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import packed_folders
import pytest
import torch
from families import FAMILIES, every_family
from packed_folders import contents, sparse_family
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ressa.checkpoint import (
    MASKS,
    StoredTensors,
    count_sparsity,
    pack_folder,
    read_manifest,
    read_masks,
    unpack_folder,
)
from ressa.errors import RunError, UsageError
from ressa.runtime.format import MARKER
from tests.runtime.test_packing import DTYPES, same_bits

CLIP = FAMILIES["clip"]


@every_family
def test_unpacking_gives_back_every_file_byte_for_byte(family, tmp_path):
    source = sparse_family(tmp_path / "sparse", family)
    sizes = pack_folder(source, tmp_path / "packed")
    again = unpack_folder(tmp_path / "packed", tmp_path / "again")
    assert contents(tmp_path / "again") == contents(source)
    assert sizes.weights == again.weights
    assert sizes.layers > 0
    assert not sizes.left
    assert sizes.weights[1] < 0.5 * sizes.weights[0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_shards_stay_shards(dtype, tmp_path):
    source = sparse_family(tmp_path / "sparse", CLIP, dtype, shard="20KB")
    pack_folder(source, tmp_path / "packed")
    shards = sorted(path.name for path in source.glob("*.safetensors") if path.name != MASKS)
    assert len(shards) > 2
    assert sorted(path.name for path in (tmp_path / "packed").glob("*.safetensors")) == shards
    unpack_folder(tmp_path / "packed", tmp_path / "again")
    assert contents(tmp_path / "again") == contents(source)


def test_the_files_are_those_that_the_safetensors_library_would_write(tmp_path):
    pack_folder(sparse_family(tmp_path / "sparse", CLIP), tmp_path / "packed")
    ours = tmp_path / "packed" / "model.safetensors"
    save_file(load_file(ours), tmp_path / "theirs", metadata={"format": "pt"})
    assert ours.read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.parametrize(("pattern", "share"), [("vision", 0.57), ("language", 0.37)])
def test_a_tower_takes_no_more_room_than_was_promised(pattern, share, tmp_path):
    """Vision is 2:4, language 70 %; rows of at least 64 weights, where a byte of spare bits hardly counts."""
    source = sparse_family(tmp_path / "sparse", CLIP)
    pack_folder(source, tmp_path / "packed")
    packed = StoredTensors(tmp_path / "packed")
    reports = [r for r in read_manifest(source).layers if r.tower == pattern and r.asked != "dense"]
    dense = sum(2 * r.shape[0] * r.shape[1] for r in reports)
    assert sum(packed.packed_weight(r.tensor).nbytes for r in reports) <= share * dense


def test_counting_masks_and_tensors_are_the_same_of_both(tmp_path):
    source = sparse_family(tmp_path / "sparse", CLIP)
    pack_folder(source, tmp_path / "packed")
    assert count_sparsity(tmp_path / "packed") == count_sparsity(source)
    assert count_sparsity(tmp_path / "packed").holds
    masks, again = read_masks(source), read_masks(tmp_path / "packed")
    assert list(masks) == list(again)
    assert all(torch.equal(masks[name], again[name]) for name in masks)
    dense, packed = StoredTensors(source), StoredTensors(tmp_path / "packed")
    assert set(dense) == set(packed)
    assert len(dense) == len(packed)
    assert dense.shapes() == packed.shapes()
    assert all(same_bits(dense[key], packed[key]) for key in dense)
    assert MARKER not in packed
    assert not (tmp_path / "packed" / MASKS).exists()


def test_a_count_without_a_manifest_sees_the_zeros_too(tmp_path):
    source = sparse_family(tmp_path / "sparse", CLIP)
    pack_folder(source, tmp_path / "packed")
    (tmp_path / "packed" / "ressa.json").unlink()
    count = count_sparsity(tmp_path / "packed")
    assert count.towers == count_sparsity(source).towers


def test_what_cannot_be_packed_is_told_in_a_sentence(tmp_path):
    source = sparse_family(tmp_path / "sparse", CLIP)
    pack_folder(source, tmp_path / "packed")
    with pytest.raises(UsageError, match="packed already"):
        pack_folder(tmp_path / "packed", tmp_path / "again")
    with pytest.raises(UsageError, match="is not packed"):
        unpack_folder(source, tmp_path / "again")
    (source / MASKS).unlink()
    with pytest.raises(UsageError, match="no ressa_masks"):
        pack_folder(source, tmp_path / "again")
    (source / "ressa.json").unlink()
    with pytest.raises(UsageError, match=r"no ressa\.json"):
        pack_folder(source, tmp_path / "again")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(
        json.dumps({**config, "quantization_config": {"quant_method": "gptq"}})
    )
    with pytest.raises(UsageError, match="quantised"):
        pack_folder(source, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_weight_outside_its_mask_stops_the_packing(tmp_path):
    source = sparse_family(tmp_path / "sparse", CLIP)
    report = next(r for r in read_manifest(source).layers if r.asked == "2:4")
    tensors = load_file(source / "model.safetensors")
    dropped = (~read_masks(source)[report.name]).nonzero()[0]
    tensors[report.tensor][tuple(dropped)] = 1.0
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunError, match=f"{report.tensor}.*outside the mask"):
        pack_folder(source, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def damage(folder: Path, how: str) -> None:
    path = folder / "model.safetensors"
    if how == "cut short":
        path.write_bytes(path.read_bytes()[:-100])
        return
    tensors = load_file(path)
    key = next(key for key in tensors if key.endswith(".positions"))
    if how == "a position is wrong":
        tensors[key][0, 0] ^= 0xFF
    elif how == "positions are gone":
        del tensors[key]
    elif how == "values are gone":
        stem = key.removesuffix(".positions")
        tensors[f"{stem}.weight"] = tensors[f"{stem}.weight"][:-1].contiguous()
    elif how == "the shape is wrong":
        tensors[key.replace(".positions", ".shape")] += 8
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "how",
    ["cut short", "a position is wrong", "positions are gone", "values are gone", "the shape is wrong"],
)
def test_a_damaged_folder_is_told_in_a_sentence(how, tmp_path):
    pack_folder(sparse_family(tmp_path / "sparse", CLIP), tmp_path / "packed")
    damage(tmp_path / "packed", how)
    for read in (count_sparsity, lambda folder: unpack_folder(folder, tmp_path / "again")):
        with pytest.raises(RunError, match="make or fetch"):
            read(tmp_path / "packed")
    assert not (tmp_path / "again").exists()


def test_a_killed_packing_leaves_nothing_half_written(tmp_path):
    source = sparse_family(tmp_path / "sparse", CLIP)
    output = tmp_path / "packed"
    process = subprocess.run(
        [sys.executable, packed_folders.__file__, source, output], stderr=subprocess.PIPE, text=True
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert list(tmp_path.glob(".packed.*/*.safetensors"))
    assert not output.exists()
    pack_folder(source, output)
    assert count_sparsity(output).holds
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packed", "sparse"]


def test_a_layer_stored_in_another_form_stays_as_it_is_and_keeps_its_mask(tmp_path):
    source = sparse_family(tmp_path / "sparse", CLIP)
    manifest = json.loads((source / "ressa.json").read_text())
    report = next(layer for layer in manifest["layers"] if layer["asked"] == "2:4")
    report["tensor"] = ""
    (source / "ressa.json").write_text(json.dumps(manifest, indent=2) + "\n")
    sizes = pack_folder(source, tmp_path / "packed")
    assert sizes.left == (report["name"],)
    with safe_open(tmp_path / "packed" / MASKS, "pt") as file:
        assert list(file.keys()) == [report["name"]]
    masks = read_masks(source)
    again = read_masks(tmp_path / "packed")
    assert {name: masks[name].sum() for name in masks} == {name: again[name].sum() for name in again}
    assert count_sparsity(tmp_path / "packed").holds
    unpack_folder(tmp_path / "packed", tmp_path / "again")
    assert contents(tmp_path / "again") == contents(source)
