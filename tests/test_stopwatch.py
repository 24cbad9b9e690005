import pytest

from ressa.stopwatch import Stopwatch, where_it_went


def test_time_within_something_else_counts_once(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("ressa.stopwatch.perf_counter", lambda: now[0])
    watch = Stopwatch()
    with watch.on("calibrate"):
        now[0] += 2
        for _ in range(2):
            with watch.on("prune"):
                now[0] += 5
        now[0] += 2
    assert list(watch.seconds) == ["calibrate", "prune"]
    assert watch.seconds == pytest.approx({"prune": 10, "calibrate": 4})


def test_it_is_said_in_one_line():
    assert where_it_went({"load": 3.04, "save": 0.5}) == "Where the time went: load 3.0 s, save 0.5 s."
