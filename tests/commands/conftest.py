"""A tiny VLM with its processor and a tiny dataset, on disk as a user has them."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from ressa.cli import main
from ressa.embedded.dataset import write_dataset
from tests.data.vlms import VLMS


@dataclass(frozen=True)
class World:
    """Folders: InstructBLIP on T5, LLaVA on Llama, and embedded scenes in every split that is used."""

    instructblip: Path
    llava: Path
    data: Path


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("world")
    for name, build in VLMS.items():
        model, processor = build()
        model.save_pretrained(root / name)
        processor.save_pretrained(root / name)
    data = root / "scenes"
    data.mkdir()
    write_dataset(data, 0, {"train": 8, "calibration": 6, "test": 4})
    return World(root / "instructblip", root / "llava", data)


@dataclass(frozen=True)
class Said:
    """What a command line came to."""

    status: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one sentence on standard error that says what went wrong (progress lines aside)."""
        lines = [line for line in self.err.splitlines() if line.startswith("ressa: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0].removeprefix("ressa: ")


@pytest.fixture
def ressa(capsys: pytest.CaptureFixture):
    """Run one command line in this process."""

    def run(*arguments: object) -> Said:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Said(status, said.out, said.err)

    return run
