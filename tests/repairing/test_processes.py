"""Repair in processes of its own: killed and started again, and spread over two processes."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from repairing.run_repair import run_repair
from repairing.tiny import pruned_pair, samples

from ressa.errors import UsageError
from ressa.repairing import RepairConfig, repair
from ressa.repairing.training import Progress

SCRIPT = str(Path(__file__).with_name("run_repair.py"))
SHARDED_SCRIPT = str(Path(__file__).with_name("run_sharded_repair.py"))
REPAIR_PAGE = Path(__file__).parents[2] / "docs" / "repair.md"
OPTIONS = {"learning_rate": 1e-2, "batch_size": 4, "steps": 6, "checkpoints": 3}
TOGETHER = OPTIONS | {
    "family": "llava",
    "dropout": False,
    "gradient_accumulation": 2,
    "steps": 4,
    "checkpoints": 2,
}
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
on_each_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=two_gpus)])


def run(
    output: Path, *launcher: str, script: str = SCRIPT, **options: object
) -> subprocess.CompletedProcess[str]:
    arguments = json.dumps({"output": str(output)} | options)
    command = [sys.executable, *launcher, script, arguments]
    environment = (
        ENVIRONMENT if options.get("device") == "cuda" else ENVIRONMENT | {"CUDA_VISIBLE_DEVICES": ""}
    )
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)


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


@on_each_device
def test_two_processes_equal_one_with_the_same_global_batch(tmp_path, device):
    options = TOGETHER | {"device": device}
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    done = run(tmp_path / "two.json", *launcher, **options | {"batch_size": 2})
    assert done.returncode == 0, done.stderr
    assert_same(run_repair(options), json.loads((tmp_path / "two.json").read_text()))


@pytest.mark.parametrize("family", ["blip", "colpali"])
def test_two_processes_repair_a_dual_encoder_whose_step_takes_several_forwards(tmp_path, family):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    options = {"family": family, "batch_size": 4, "steps": 2, "objective": "both", "teacher": "shared"}
    done = run(tmp_path / "two.json", *launcher, **options)
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "two.json").read_text())
    assert made["kept"]
    assert len(made["history"]) == 2
    assert ("itm_loss" in made["history"][0]) == (family == "blip")


@on_each_device
def test_two_sharded_processes_equal_one_with_the_same_global_batch(tmp_path, device):
    """FSDP2 by the accelerate config that the documentation shows; the teacher is the sharded student's own."""
    options = TOGETHER | {"device": device}
    done = run_sharded(tmp_path, tmp_path / "two.json", **options | {"batch_size": 2})
    assert done.returncode == 0, done.stderr
    one, two = run_repair(options), json.loads((tmp_path / "two.json").read_text())
    assert two["kept"]
    assert two["teacher"] == "shared"
    assert_same(one, two)


@on_each_device
def test_a_killed_sharded_run_goes_on_and_equals_one_process(tmp_path, device):
    """Of a model with tied embeddings, whose kept weights themselves are trained."""
    options = TOGETHER | {"family": "instructblip", "method": "masked_finetune", "device": device}
    sharded = options | {"batch_size": 2, "work_dir": str(tmp_path / "work")}
    killed = run_sharded(tmp_path, tmp_path / "never.json", **sharded | {"kill_at": 3})
    assert killed.returncode != 0
    assert [path.name for path in tmp_path.glob("work/checkpoint-*")] == ["checkpoint-2"], killed.stderr
    done = run_sharded(tmp_path, tmp_path / "two.json", **sharded)
    assert done.returncode == 0, done.stderr
    two = json.loads((tmp_path / "two.json").read_text())
    assert two["kept"]
    assert_same(run_repair(options), two)


def run_sharded(folder: Path, output: Path, **options: object) -> subprocess.CompletedProcess[str]:
    config = re.search(r"```yaml\n(.*?)```", REPAIR_PAGE.read_text(), re.DOTALL)
    assert config
    (folder / "fsdp.yaml").write_text(config[1])
    launcher = ("-m", "accelerate.commands.launch", f"--config_file={folder / 'fsdp.yaml'}")
    return run(output, *launcher, f"--main_process_port={free_port()}", script=SHARDED_SCRIPT, **options)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def assert_same(one: dict, two: dict) -> None:
    for alone, together in zip(one["history"], two["history"], strict=True):
        for key in ("loss", "task_loss", "kd_loss", "grad_norm"):
            assert together[key] == pytest.approx(alone[key], rel=1e-3), key
    assert two["weights"] == pytest.approx(one["weights"], rel=1e-4)
