"""Folders and files appear whole or not at all, whatever kills the process that writes them."""

import errno
import os
import resource
import stat
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import save_file

from ressa import files
from ressa.errors import RunError, UsageError
from ressa.files import check_writable, fresh_directory, fresh_file, write_json, write_text

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


@pytest.mark.parametrize("name", ["out", "out.5", "out[1]", "a*"])
def test_leftovers_of_other_outputs_are_not_ours(tmp_path, name):
    others = [f".{name}.b.4194999.old", f".{name}b.4194999.old", f".x{name}.4194999.tmp", f".{name}.x.tmp"]
    for other in others:
        (tmp_path / other).mkdir()
    mine = tmp_path / f".{name}.4194999.tmp"
    mine.mkdir()
    with fresh_directory(tmp_path / name):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, name])


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_a_link_and_what_it_points_to_is_written(tmp_path, there):
    (tmp_path / "disk").mkdir()
    folder, text = tmp_path / "disk" / "folder", tmp_path / "disk" / "text"
    (tmp_path / "folder").symlink_to(folder)
    (tmp_path / "text").symlink_to("disk/text")
    if there:
        folder.mkdir()
        text.touch()
    with fresh_directory(tmp_path / "folder") as work:
        (work / "a").touch()
    write_text(tmp_path / "text", "b")
    assert (folder / "a").exists()
    assert text.read_text() == "b"
    assert (tmp_path / "folder").is_symlink()
    assert (tmp_path / "text").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "folder", "text"]


def test_a_file_is_never_replaced_by_a_folder(tmp_path):
    (tmp_path / "letter").write_text("dear")
    with pytest.raises(UsageError, match="is a file"), fresh_directory(tmp_path / "letter"):
        pass
    assert [path.read_text() for path in tmp_path.iterdir()] == ["dear"]


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    check_writable(pipe)
    write_text(pipe, "hello")
    reader.join()
    assert found == ["hello"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_what_is_written_is_as_readable_as_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    with fresh_directory(tmp_path / "out") as work:
        save_file({"a": torch.ones(1)}, work / "a.safetensors")
    with fresh_file(tmp_path / "b.safetensors") as work:
        save_file({"a": torch.ones(1)}, work)
    modes = {path.stat().st_mode for path in tmp_path.rglob("*") if path.is_file()}
    assert len(modes) == 1


@contextmanager
def files_of_at_most(size):
    """The system refuses to write more than `size` bytes to a file, as it does where a disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def by_python(path):
    path.write_bytes(bytes(9000))


def by_safetensors(path):
    save_file({"a": torch.ones(9000)}, path)


def by_torch(path):
    torch.save({"a": torch.ones(9000)}, path)


@pytest.mark.parametrize("write", [by_python, by_safetensors, by_torch])
def test_no_room_is_one_sentence_and_leaves_what_was_there(tmp_path, write):
    with fresh_directory(tmp_path / "out") as work:
        (work / "old").touch()
    write_text(tmp_path / "text", "old")
    with files_of_at_most(4096):
        with pytest.raises(RunError, match="no room left"), fresh_directory(tmp_path / "out") as work:
            write(work / "new")
        with pytest.raises(RunError, match="no room left"), fresh_file(tmp_path / "text") as work:
            write(work)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["old", "out", "text"]
    assert (tmp_path / "text").read_text() == "old"


@pytest.mark.parametrize("fails", [1, 2, 3])
def test_what_does_not_reach_the_disk_replaces_nothing(tmp_path, monkeypatch, fails):
    with fresh_directory(tmp_path / "out") as work:
        (work / "old").touch()
    calls, fsync = [], os.fsync

    def failing(handle):
        calls.append(handle)
        if len(calls) == fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(handle)

    monkeypatch.setattr(files.os, "fsync", failing)
    with pytest.raises(RunError, match="Input/output error"), fresh_directory(tmp_path / "out") as work:
        (work / "new").touch()
    (path,) = (tmp_path / "out").iterdir()
    assert path.name == ("old" if fails < 3 else "new")  # at last the rename itself is flushed, and done


def test_where_nothing_can_be_written_is_found_out_beforehand(tmp_path):
    (tmp_path / "file").touch()
    check_writable(tmp_path / "a" / "b" / "c", room=1)
    with pytest.raises(UsageError, match="Not a directory"):
        check_writable(tmp_path / "file" / "out")
    with pytest.raises(UsageError, match=r"needs 4611686018\.4 GB and .* has [0-9.]+ GB left"):
        check_writable(tmp_path / "out", room=2**62)
    (tmp_path / "ring").symlink_to(tmp_path / "ring")
    with pytest.raises(UsageError, match="symbolic links"):
        check_writable(tmp_path / "ring")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "ring"]


def test_a_folder_never_takes_the_place_of_something_else(tmp_path):
    pipe, file = tmp_path / "pipe", tmp_path / "file"
    os.mkfifo(pipe)
    file.write_text("mine")
    for path in (pipe, file):
        with pytest.raises(UsageError, match="is a file"), fresh_directory(path):
            pass
    assert pipe.is_fifo()
    assert file.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "pipe"]
