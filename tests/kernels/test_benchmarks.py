"""The benchmarks run, at sizes that anything can run, and write what they promise."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def smoke(script: str, folder: Path, *more: str) -> dict:
    output = folder / "result.json"
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), "--smoke", "--output", str(output), *more],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(output.read_text())


def test_one_layer(tmp_path):
    report = smoke("sparse_lora.py", tmp_path)
    assert {case["mask"] for case in report["cases"]} == {"2:4", "50%"}
    for case in report["cases"]:
        assert case["verdict"]["worst_error"] < case["verdict"]["error_bound"]
        assert case["variants"]["ours"]["ms"] > 0


def test_a_whole_repair_step(tmp_path):
    report = smoke("repair_step.py", tmp_path)
    for model in report["models"].values():
        forms = model["forms"]
        assert forms["ours"]["losses"] == pytest.approx(forms["naive SparseLoRA"]["losses"], rel=1e-5)
        assert forms["ours"]["trainable"] == forms["LoRA, second teacher"]["trainable"]


def test_how_long_pruning_takes(tmp_path):
    report = smoke("pruning.py", tmp_path, "--only", "wanda, atv")
    assert [(case["what"], case["pattern"]) for case in report["cases"]] == [
        ("wanda, atv", "0.5"),
        ("wanda, atv", "2:4"),
    ]
    assert all(case["seconds"] > 0 and case["processor_seconds"] > 0 for case in report["cases"])


def test_pruning_at_the_speed_of_the_hardware(tmp_path):
    figure = tmp_path / "curves.png"
    report = smoke("prune_speed.py", tmp_path, "--parts", "floor,sides,curves", "--only", "ours|samples",
                   "--figure", str(figure))  # fmt: skip
    assert figure.stat().st_size > 10_000
    assert {case["x"] for case in report["curves"].values()} == {1, 2, 4, 8}
    assert report["floor"]["floor"]["wanda_seconds"] > 0
    ours = {name: found for name, found in report["sides"].items() if name.startswith("ours")}
    assert set(ours) >= {f"ours, {m}, {p}" for m in ("wanda", "sparsegpt") for p in ("2:4", "0.5")}
    assert all(found["zeros"] == pytest.approx(0.5, abs=0.005) for found in ours.values())
    assert ours["ours, sparsegpt, 2:4"]["error"] < 0.9 * ours["ours, wanda, 2:4"]["error"]


def test_methods_and_repairs_side_by_side(tmp_path):
    command = [
        sys.executable,
        str(BENCHMARKS / "compare.py"),
        "embedded-llava",
        "--smoke",
        "-o",
        str(tmp_path),
    ]
    done = subprocess.run(
        command, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "embedded-llava.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["repair"]) for row in rows] == [
        ("dense", "none"),
        ("wanda", "none"),
        ("wanda", "both"),
    ]
    assert [float(row["zeros_language"]) for row in rows] == [0, 0.5, 0.5]
    assert "| wanda, both |" in (tmp_path / "embedded-llava.md").read_text()
    again = subprocess.run(command, capture_output=True, text=True)
    assert "left]" not in again.stdout  # every cell was there already


def test_a_repair_of_real_size(tmp_path):
    report = smoke("repair_7b.py", tmp_path)
    before, after = report["reconstruction"]["error"]
    assert after < before
    assert report["reconstruction"]["blocks"] == 2
    assert len(report["sparse_lora"]["losses"]) == 2


def test_the_demo_on_each_device(tmp_path):
    report = smoke("devices.py", tmp_path)
    assert {"make repaired", "evaluate dense"} <= set(report["cpu"]["seconds"])


def test_a_whole_sparse_model_at_work(tmp_path):
    report = smoke("runtime.py", tmp_path, "--batches", "2")
    ours = [f"ressa {pattern}{how}" for pattern in ("2:4", "70 %") for how in ("", ", layer by layer")]
    assert set(report["sides"]) == {"dense", "dense, 70 % zeros", *ours}
    for side in ours:
        assert max(report["sides"][side]["2"]["errors"]) < 1e-2
    assert (
        report["sides"]["ressa 70 %"]["2"]["weights_bytes"] < report["sides"]["dense"]["2"]["weights_bytes"]
    )
    assert 0 < report["ceiling"]["decode, batch 2"]["share"] <= 1


def test_pruning_in_several_processes(tmp_path):
    report = smoke("prune_processes.py", tmp_path)
    one, two = report["runs"]["1"], report["runs"]["2"]
    assert one.keys() == two.keys() == {"wanda, 2:4", "sparsegpt, 2:4"}
    assert all(two[name]["layers_with_other_masks"] == 0 for name in two)


def test_the_command_line_from_start_to_result(tmp_path):
    report = smoke("prune_command.py", tmp_path)
    assert report["prune"]["spent"].keys() == report["prune --stream"]["spent"].keys()
    assert report["inspect"]["seconds"] > 0
