import time

import pytest

from ressa.stopwatch import Stopwatch, where_it_went


def test_time_within_something_else_counts_once():
    watch = Stopwatch()
    with watch.on("calibrate"):
        time.sleep(0.02)
        for _ in range(2):
            with watch.on("prune"):
                time.sleep(0.05)
        time.sleep(0.02)
    assert list(watch.seconds) == ["calibrate", "prune"]
    assert watch.seconds["prune"] == pytest.approx(0.1, abs=0.03)
    assert watch.seconds["calibrate"] == pytest.approx(0.04, abs=0.03)


def test_it_is_said_in_one_line():
    assert where_it_went({"load": 3.04, "save": 0.5}) == "Where the time went: load 3.0 s, save 0.5 s."
