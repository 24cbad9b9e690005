"""Damaged files of a run that was cut short cost the damaged stage at most, and it is said."""

import shutil

import pytest
from repairing.run_repair import run_repair
from repairing.tiny import pruned_pair, samples

from ressa.repairing import RepairConfig, repair
from ressa.repairing.checkpoints import SEAL, last_checkpoint
from ressa.warned import RessaWarning, recorded

OPTIONS = {"learning_rate": 1e-2, "batch_size": 4, "steps": 6, "checkpoints": 3}
FILES = (
    "adapter_model.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
    SEAL,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A work folder with the two newest checkpoints of a run, and what the run made."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, run_repair(OPTIONS | {"work_dir": folder})


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["empty", "cut", "changed"])
def test_a_damaged_file_sends_training_to_the_checkpoint_before(finished, tmp_path, name, how):
    work = tmp_path / "work"
    shutil.copytree(finished[0], work)
    assert last_checkpoint(work).name == "checkpoint-6"
    hurt(work / "checkpoint-6" / name, how)
    with pytest.warns(RessaWarning, match=f"{name} of checkpoint-6 .* goes on from checkpoint-4"):
        assert last_checkpoint(work).name == "checkpoint-4"
    assert not (work / "checkpoint-6").exists()


def test_it_then_comes_to_the_same_result(finished, tmp_path, capsys):
    work = tmp_path / "work"
    shutil.copytree(finished[0], work)
    hurt(work / "checkpoint-6" / "optimizer.pt", "cut")
    with pytest.warns(RessaWarning, match="goes on from checkpoint-4"):
        assert run_repair(OPTIONS | {"work_dir": work}) == finished[1]
    assert "An earlier run trained 4 of 6 steps: going on from there." in capsys.readouterr().err
    for number in (4, 6):
        hurt(work / f"checkpoint-{number}" / "rng_state.pth", "empty")
    with pytest.warns(RessaWarning, match="training starts again"):
        assert run_repair(OPTIONS | {"work_dir": work}) == finished[1]


def test_a_checkpoint_that_was_never_finished_is_no_damage(finished, tmp_path):
    work = tmp_path / "work"
    shutil.copytree(finished[0], work)
    (work / "checkpoint-6" / SEAL).unlink()
    with recorded() as said:
        assert last_checkpoint(work).name == "checkpoint-4"
    assert said == []


@pytest.mark.parametrize("how", ["empty", "cut", "changed"])
def test_a_damaged_block_is_reconstructed_again(tmp_path, how, capsys):
    config = RepairConfig(method="reconstruct", reconstruct_epochs=2, device="cpu")
    straight = repair(*pruned_pair("llava"), samples(4), config, work_dir=tmp_path)
    hurt(tmp_path / "reconstruction" / "1.safetensors", how)
    with pytest.warns(RessaWarning, match="done again") as said:
        again = repair(*pruned_pair("llava"), samples(4), config, work_dir=tmp_path)
    assert len(said) == 1
    assert "An earlier run reconstructed" in capsys.readouterr().err
    assert again.blocks == straight.blocks


def test_a_work_folder_that_says_no_more_whose_it_is_starts_anew(tmp_path):
    config = RepairConfig(method="reconstruct", reconstruct_epochs=1, device="cpu")
    straight = repair(*pruned_pair("llava"), samples(4), config, work_dir=tmp_path)
    hurt(tmp_path / "repair.json", "cut")
    with pytest.warns(RessaWarning, match="repair.json is damaged") as said:
        again = repair(*pruned_pair("llava"), samples(4), config, work_dir=tmp_path)
    assert len(said) == 1
    assert again.blocks == straight.blocks


def hurt(path, how):
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(
        {
            "empty": b"",
            "cut": data[:middle],
            "changed": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        }[how]
    )
