"""What an interrupted run has done outlives any error; a run that did nothing leaves nothing."""

import pytest

from ressa.commands.target import work_folder
from ressa.errors import RunError, UsageError


@pytest.mark.parametrize("error", [UsageError, RunError, KeyboardInterrupt])
def test_work_that_was_done_outlives_an_error(tmp_path, error):
    def fail():
        with work_folder(tmp_path / "out", {"seed": 0}, force=False) as work:
            (work / "training").mkdir(exist_ok=True)
            (work / "training" / "block").write_text("hours of work")
            raise error("a picture cannot be read")

    with pytest.raises(error):
        fail()
    with work_folder(tmp_path / "out", {"seed": 0}, force=False) as work:
        assert (work / "training" / "block").read_text() == "hours of work"
    assert list(tmp_path.iterdir()) == []


def test_wrong_usage_that_did_nothing_leaves_nothing(tmp_path):
    def fail():
        with work_folder(tmp_path / "out", {"seed": 0}, force=False) as work:
            (work / "training").mkdir()
            raise UsageError("the teacher cannot be had")

    with pytest.raises(UsageError):
        fail()
    assert list(tmp_path.iterdir()) == []
