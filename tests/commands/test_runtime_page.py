"""What docs/runtime.md shows can be run."""

import re
from pathlib import Path

import pytest

from ressa.checkpoint import pack_folder
from ressa.runtime.model import packed_layers
from tests.packed_folders import sparse_embedded

PAGE = (Path(__file__).parents[2] / "docs" / "runtime.md").read_text(encoding="utf-8")


@pytest.fixture
def here(tmp_path, monkeypatch):
    pack_folder(
        sparse_embedded(tmp_path / "runs" / "repaired", "embedded-llava"), tmp_path / "runs" / "packed"
    )
    monkeypatch.chdir(tmp_path)


def test_its_examples_run(here):
    loading, modes = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    names: dict = {}
    exec(loading, names)
    assert packed_layers(names["model"])
    exec(modes, names)
    assert all(layer.mode == "dense" for layer in packed_layers(names["vlm"].model).values())


def test_its_commands_are_commands(here, ressa):
    commands = re.findall(r"^    ressa (.*?) *(?:#.*)?$", PAGE, re.M)
    assert len(commands) == 3
    for command in commands:
        quick = ("--new-tokens", "2", "--rounds", "1", "--device", "cpu") if "bench" in command else ()
        output = ("--force",) if " -o " in command else ()
        assert ressa(*command.replace("1,8", "1").split(), *quick, *output).status == 0
