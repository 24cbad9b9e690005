"""`ressa repair` under torchrun: one folder, written once, the same as from one process."""

import json
import os
import subprocess
import sys

import torch
from safetensors.torch import load_file


def test_two_processes_write_one_folder(ressa, world, tmp_path):
    pruned, one, two = (tmp_path / name for name in ("pruned", "one", "two"))
    calibration = ("--calibration", world.data, "--samples", 4)
    assert ressa("prune", world.llava, "-o", pruned, *calibration, "--pattern", "2:4").status == 0
    options = ["repair", pruned, "--data", world.data, "--samples", 8, "--device", "cpu"]
    options += ["--option", "precision=fp32"]
    assert ressa(*options, "-o", one, "--batch-size", 4).status == 0
    command = [*options, "-o", two, "--batch-size", 2, "--json", tmp_path / "two.json"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "ressa.cli"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *launcher, *map(str, command)],
        capture_output=True, text=True, env=environment, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("The repaired model is in") == 1
    assert sorted(os.listdir(tmp_path)) == ["one", "pruned", "two", "two.json"]
    assert json.loads((tmp_path / "two.json").read_text())["layers"]
    assert sorted(os.listdir(one)) == sorted(os.listdir(two))
    ours, theirs, before = (load_file(folder / "model.safetensors") for folder in (one, two, pruned))
    for name, weight in ours.items():
        torch.testing.assert_close(theirs[name], weight, rtol=1e-3, atol=1e-5)
    assert any(not torch.equal(weight, before[name]) for name, weight in ours.items())
    masks, again = (load_file(folder / "ressa_masks.safetensors") for folder in (pruned, two))
    assert all(torch.equal(again[name], mask) for name, mask in masks.items())


def test_other_commands_refuse_several_processes(ressa, world, monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = ressa("evaluate", world.llava, "--data", world.data)
    assert said.status == 2
    assert "in one" in said.sentence
