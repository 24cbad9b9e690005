"""Folders and files appear whole or not at all, whatever kills the process that writes them."""

import os
import subprocess
import sys

import pytest

from ressa.files import fresh_directory, write_json, write_text

KILLED = """
import os, signal, sys
from pathlib import Path
from ressa.files import fresh_directory
with fresh_directory(sys.argv[1]) as work:
    (work / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_folder_appears_when_the_block_ends(tmp_path):
    with fresh_directory(tmp_path / "out") as work:
        (work / "a").write_text("1")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "a").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_error_leaves_the_old_folder_and_nothing_else(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with pytest.raises(ValueError, match="stop"), fresh_directory(tmp_path / "out") as work:  # noqa: PT012
        (work / "new").touch()
        raise ValueError("stop")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]


def test_what_a_killed_process_left_is_cleared_by_the_next(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "out")], check=False)
    assert [path.suffix for path in tmp_path.iterdir()] == [".tmp"]
    with fresh_directory(tmp_path / "out") as work:
        (work / "whole").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "whole"]


def test_a_folder_that_was_moved_aside_comes_back(tmp_path):
    aside = tmp_path / ".out.1.old"
    aside.mkdir()
    (aside / "precious").touch()
    with pytest.raises(KeyboardInterrupt), fresh_directory(tmp_path / "out"):
        raise KeyboardInterrupt
    assert (tmp_path / "out" / "precious").exists()


def test_a_living_process_keeps_its_unfinished_folder(tmp_path):
    other = tmp_path / f".out.{os.getppid()}.tmp"
    other.mkdir()
    with fresh_directory(tmp_path / "out"):
        pass
    assert other.is_dir()


def test_text_and_json_are_replaced_in_one_step(tmp_path):
    write_text(tmp_path / "a.txt", "é\n")
    write_json(tmp_path / "a.json", {"é": 1})
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "é\n"
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "é": 1\n}\n'
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", object())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.txt"]
