"""Progress where there is no terminal: a line now and then, with what is left."""

import pytest

from ressa import progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when the test says so."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


def test_a_log_gets_a_line_every_ten_seconds_and_one_at_the_end(clock, capsys):
    with progress.bar("Pruning", 40) as bar:
        for _ in range(40):
            clock(3)
            bar.advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Pruning: 4/40, 10%, 0:12 gone, 1:48 left"
    assert lines[-1] == "Pruning: done"
    assert len(lines) == 10  # 120 seconds, a line every fourth step; none for the last


def test_what_is_quick_gets_only_its_end(clock, capsys):
    assert list(progress.track(range(3), "Reading")) == [0, 1, 2]
    assert capsys.readouterr().err == "Reading: done\n"


def test_a_run_that_goes_on_is_not_taken_for_a_fast_one(clock, capsys):
    with progress.bar("Repairing", 1000) as bar:
        bar.advance(900)
        for _ in range(10):
            clock(6)
            bar.advance(1, "Repairing (loss 0.5)")
    first = capsys.readouterr().err.splitlines()[0]
    assert first == "Repairing (loss 0.5): 902/1000, 90%, 0:12 gone, 9:48 left"


def test_without_a_total_it_counts(clock, capsys):
    with progress.bar("Reading", None) as bar:
        clock(3700)
        bar.advance()
    assert capsys.readouterr().err.splitlines()[0] == "Reading: 1, 1:01:40 gone"
