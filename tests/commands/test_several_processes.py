"""`ressa prune`, `repair` and `evaluate` under torchrun: written once, and the same as from one process."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file


def in_two(command) -> subprocess.CompletedProcess:
    """One command line in two processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "ressa"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, *launcher, *map(str, command)],
        capture_output=True, text=True, env=environment, timeout=240, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("model", "method"), [("llava", "wanda"), ("instructblip", "sparsegpt"), ("llava", "dsnot")]
)
def test_two_processes_prune_as_one_does(ressa, world, model, method, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    options = ["prune", getattr(world, model), "--calibration", world.data, "--samples", 6, "--batch-size", 2]
    options += ["--method", method, "--connector", "2:4", "--language", "0.5", "--device", "cpu"]
    assert ressa(*options, "-o", one).status == 0
    done = in_two([*options, "-o", two])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("The pruned model is in") == 1
    assert sorted(os.listdir(tmp_path)) == ["one", "two"]
    assert sorted(os.listdir(one)) == sorted(os.listdir(two))
    masks, again = (load_file(folder / "ressa_masks.safetensors") for folder in (one, two))
    assert masks.keys() == again.keys()
    assert all(torch.equal(again[name], mask) for name, mask in masks.items())
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (one, two))
    for name, weight in ours.items():
        torch.testing.assert_close(theirs[name], weight, rtol=1e-3, atol=1e-5)


def test_two_processes_write_one_folder(ressa, world, tmp_path):
    pruned, one, two = (tmp_path / name for name in ("pruned", "one", "two"))
    calibration = ("--calibration", world.data, "--samples", 4)
    assert ressa("prune", world.llava, "-o", pruned, *calibration, "--pattern", "2:4").status == 0
    options = ["repair", pruned, "--data", world.data, "--samples", 8, "--device", "cpu"]
    options += ["--option", "precision=fp32"]
    assert ressa(*options, "-o", one, "--batch-size", 4).status == 0
    command = [*options, "-o", two, "--batch-size", 2, "--json", tmp_path / "two.json"]
    done = in_two(command)
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


def test_two_processes_evaluate_as_one_does(ressa, world, tmp_path):
    """The same batches, shared out: the same answers, bit for bit, and one that writes."""
    one, two = (tmp_path / name / "scores.json" for name in ("one", "two"))
    options = ["evaluate", world.instructblip, "--data", world.data, "--split", "test", "--batch-size", 2]
    options += ["--device", "cpu", "--beams", 2]
    assert ressa(*options, "--json", one).status == 0
    done = in_two([*options, "--json", two])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Every answer is in") == 1
    assert sorted(os.listdir(two.parent)) == ["scores.json", "scores.predictions.jsonl"]
    ours, theirs = (json.loads(path.read_text()) for path in (one, two))
    for key in ("tasks", "average", "asked", "data", "recipe"):
        assert theirs[key] == ours[key], key
    lines, again = (
        path.with_name("scores.predictions.jsonl").read_text().splitlines() for path in (one, two)
    )
    assert again[1:] == lines[1:]
    assert len(lines) > 20


def test_other_commands_refuse_several_processes(ressa, world, monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = ressa("sweep", world.llava, "--data", world.data, "-o", tmp_path / "sweep")
    assert said.status == 2
    assert "in one" in said.sentence


@pytest.mark.parametrize(("processes", "status"), [("1", -signal.SIGABRT), ("2", 3)])
def test_one_of_several_leaves_without_the_teardown(processes, status):
    """Where a thread of gloo can abort it; what was printed is not lost. One alone ends as any program does."""
    script = (
        "import atexit, os; from ressa.processes import leave; "
        "atexit.register(os.abort); print('said', end=''); leave(3)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True, text=True, env=os.environ | {"WORLD_SIZE": processes}, check=False,
    )  # fmt: skip
    assert done.returncode == status
    assert processes == "1" or done.stdout == "said"
