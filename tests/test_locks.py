"""One process at a time writes an output; a lock goes with the process that holds it."""

import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from ressa.errors import RunError
from ressa.locks import held

HOLDER = """
import sys, time
from ressa.locks import held
with held(sys.argv[1]):
    print("held", flush=True)
    time.sleep(100)
"""


@contextmanager
def holder(path):
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield process
        process.kill()


def test_a_second_one_is_told_who_holds_it(tmp_path):
    with holder(tmp_path / "out") as process:
        with pytest.raises(RunError) as told, held(tmp_path / "out"):
            pass
        assert f"written by process {process.pid} (" in str(told.value)
        assert str(tmp_path / "out") in str(told.value)
        assert f"since {time.strftime('%Y-')}" in str(told.value)
        with held(tmp_path / "out2"):
            pass
    with held(tmp_path / "out"):  # the process is dead
        pass
    assert os.listdir(tmp_path) == []


def test_it_holds_within_a_process_and_through_links(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with held(tmp_path / "out"), pytest.raises(RunError), held(tmp_path / "link"):
        pass
    assert os.listdir(tmp_path) == ["link"]


def test_folders_that_are_not_there_yet_are_not_left_behind(tmp_path):
    with held(tmp_path / "a" / "b" / "out"):
        pass
    assert os.listdir(tmp_path) == []
    with held(tmp_path / "a" / "b" / "out"):
        (tmp_path / "a" / "b" / "out").touch()
    assert os.listdir(tmp_path / "a" / "b") == ["out"]


def test_many_that_wait_come_one_after_another(tmp_path):
    inside, most = [], []

    def work():
        for _ in range(20):
            with held(tmp_path / "out", wait=True):
                inside.append(None)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 80
    assert max(most) == 1
