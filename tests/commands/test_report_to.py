"""`--report-to`: the trackers' own files hold the training's losses, and nothing of the result hangs on them.

The trackers are no dependency: a test of one that is not installed is skipped.
"""

import importlib.util
import json

import pytest

from ressa.repairing import RepairConfig
from tests.commands.contents import contents


def has(name):
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")


@pytest.fixture(scope="module")
def pruned(world, tmp_path_factory):
    from ressa.recipe import PruneRecipe
    from ressa.run import run_recipe

    output = tmp_path_factory.mktemp("report") / "pruned"
    recipe = PruneRecipe(
        model=str(world.llava), output=output, calibration=str(world.data), samples=2, method="magnitude"
    )
    run_recipe(recipe)
    return output


def repaired(ressa, world, pruned, output, *words):
    said = ressa("repair", pruned, "-o", output, "--data", world.data, "--samples", 8, "--batch-size", 4,
                 "--no-warm-start", *words)  # fmt: skip
    assert said.status == 0, said.err
    return json.loads((output / "ressa.json").read_text())


@has("tensorboard")
def test_tensorboard_gets_the_loss_of_every_step(ressa, world, pruned, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plain = repaired(ressa, world, pruned, tmp_path / "plain")
    told = repaired(ressa, world, pruned, tmp_path / "told", "--report-to", "tensorboard")
    events = EventAccumulator(str(tmp_path / "told-logs"))
    events.Reload()
    losses = [event.value for event in events.Scalars("train/loss")]
    assert losses == pytest.approx([entry["loss"] for entry in told["training"]["history"]])
    assert {"train/kd_loss", "train/task_loss"} <= set(events.Tags()["scalars"])
    assert told["besides"] == {"report_to": ["tensorboard"]}
    assert told["recipe"] == plain["recipe"]
    made, other = contents(tmp_path / "told"), contents(tmp_path / "plain")
    assert {name for name in made if made[name] != other.get(name)} <= {"ressa.json", "README.md"}


@has("wandb")
def test_wandb_gets_a_run_of_its_own(ressa, world, pruned, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    repaired(ressa, world, pruned, tmp_path / "told", "--report-to", "wandb")
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    import wandb

    assert wandb.run is None  # it ended with the training


@has("wandb")
def test_wandb_that_knows_nobody_is_told_before_any_work(ressa, world, pruned, tmp_path, monkeypatch):
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    said = ressa("repair", pruned, "-o", tmp_path / "out", "--data", world.data, "--report-to", "wandb")
    assert (said.status, "wandb login" in said.sentence) == (2, True)
    assert not (tmp_path / "out").exists()


def test_a_tracker_that_is_not_there_is_told_before_any_work(ressa, pruned, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "wandb" else find(name, *more)
    )
    said = ressa("repair", pruned, "-o", tmp_path / "out", "--report-to", "wandb")
    assert (said.status, "pip install wandb" in said.sentence) == (2, True)
    said = ressa("repair", pruned, "-o", tmp_path / "out", "--report-to", "chess")
    assert (said.status, "'wandb', 'tensorboard'" in said.sentence) == (2, True)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="pip install wandb"):
        RepairConfig(report_to=("wandb",))
