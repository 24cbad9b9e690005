"""What every test of the net has: a tiny model, its pruned folder, a tiny dataset."""

from pathlib import Path
from typing import Any

import pytest

from ressa.cli import main
from tests.data.tiny_folders import tiny_dataset
from tests.data.vlms import VLMS
from tests.robustness.net import QUICK, Inputs, Net


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    root = tmp_path_factory.mktemp("inputs")
    model, processor = VLMS["llava"]()
    model.save_pretrained(root / "model")
    processor.save_pretrained(root / "model")
    for split in ("train", "test", "calibration"):  # whose pool karpathy.json is
        tiny_dataset(root / "data", split, images=2)
    made = Inputs(root / "model", root / "pruned", root / "data")
    assert (
        main(["prune", str(made.model), "-o", str(made.pruned), *QUICK, "--calibration", str(made.data)]) == 0
    )
    return made


@pytest.fixture
def net(inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture, record_property: Any):
    """Made for one test; the test fails with all that it noted."""
    (tmp_path / "net").mkdir()
    made = Net(inputs, tmp_path / "net", capsys)
    yield made
    record_property("inputs", made.tried)
    assert made.tried
    assert not made.problems, "\n".join([f"{len(made.problems)} of {made.tried} inputs:", *made.problems])
