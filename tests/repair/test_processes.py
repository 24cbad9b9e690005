"""Repair in processes of its own: killed and started again, and spread over two processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from repair.run_repair import run_repair
from repair.tiny import pruned_pair, samples

from ressa.errors import UsageError
from ressa.repair import RepairConfig, repair
from ressa.repair.training import Progress

SCRIPT = str(Path(__file__).with_name("run_repair.py"))
OPTIONS = {"learning_rate": 1e-2, "batch_size": 4, "steps": 6, "checkpoints": 3}
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def run(output: Path, *launcher: str, **options: object) -> subprocess.CompletedProcess[str]:
    arguments = json.dumps({"output": str(output)} | options)
    command = [sys.executable, *launcher, SCRIPT, arguments]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=240, check=False)


def test_killed_and_started_again_gives_the_same_curve_and_weights(tmp_path):
    work = tmp_path / "work"
    straight = run_repair(OPTIONS | {"work_dir": tmp_path / "other"})
    killed = run(tmp_path / "never.json", **OPTIONS, work_dir=str(work), kill_at=5)
    assert killed.returncode == -9, killed.stderr
    (work / "checkpoint-6").mkdir()  # a checkpoint that was cut short
    resumed = run_repair(OPTIONS | {"work_dir": work})
    assert [entry["step"] for entry in resumed["history"]] == [1, 2, 3, 4, 5, 6]
    assert resumed == straight


@pytest.mark.parametrize("method", ["lora", "masked_finetune"])
def test_an_interrupted_run_of_another_method_goes_on_as_well(tmp_path, monkeypatch, method):
    options = OPTIONS | {"method": method}
    straight = run_repair(options)
    with monkeypatch.context() as patch:

        def interrupt(self, args, state, control, **kwargs):
            if state.global_step == 5:
                raise KeyboardInterrupt

        patch.setattr(Progress, "on_step_end", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_repair(options | {"work_dir": tmp_path})
    assert run_repair(options | {"work_dir": tmp_path}) == straight


def test_a_work_folder_belongs_to_one_run(tmp_path):
    config = RepairConfig(device="cpu", **OPTIONS | {"steps": 1})
    first = repair(*pruned_pair(), samples(4), config, work_dir=tmp_path)
    again = repair(*pruned_pair(), samples(4), config, work_dir=tmp_path)  # finished: nothing left to do
    assert again.history == first.history
    with pytest.raises(UsageError, match="another work folder"):
        repair(*pruned_pair(), samples(8), config, work_dir=tmp_path)
    saved = {path.name for path in (tmp_path / "checkpoint-1").iterdir()}
    assert "adapter_model.safetensors" in saved
    assert "model.safetensors" not in saved


def test_two_processes_equal_one_with_the_same_global_batch(tmp_path):
    options = OPTIONS | {"family": "llava", "dropout": False, "gradient_accumulation": 2, "steps": 3}
    one = run_repair(options | {"batch_size": 4})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}")
    done = run(tmp_path / "two.json", *launcher, **options | {"batch_size": 2})
    assert done.returncode == 0, done.stderr
    two = json.loads((tmp_path / "two.json").read_text())
    for alone, together in zip(one["history"], two["history"], strict=True):
        for key in ("loss", "task_loss", "kd_loss", "grad_norm"):
            assert together[key] == pytest.approx(alone[key], rel=1e-3), key
    assert two["weights"] == pytest.approx(one["weights"], rel=1e-4)
