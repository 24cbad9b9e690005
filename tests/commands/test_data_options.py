"""What a user meets whose data are not as they should be: told before any work, or left out on request."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from PIL import Image

from ressa.evaluation.kept import Kept


@pytest.fixture
def data(world, tmp_path):
    return shutil.copytree(world.data, tmp_path / "data")


def picture(data, split, number=0):
    return sorted((data / "images" / split).iterdir())[number]


def warnings(said):
    return [line for line in said.err.splitlines() if line.startswith("Warning: ")]


@pytest.fixture(autouse=True)
def _pillows_own_limit(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)


def test_one_bad_picture_stops_every_command_before_it_starts(ressa, world, data, tmp_path):
    for split in ("train", "calibration", "test"):
        bad = picture(data, split)
        bad.write_bytes(bad.read_bytes()[:100])
    pruned = tmp_path / "pruned"
    assert ressa("prune", world.llava, "-o", pruned, "--calibration", world.data, "--samples", 4).status == 0
    options = ("--samples", 400, "--mixture", "caption")
    for command in (
        ("prune", world.llava, "-o", tmp_path / "out", "--calibration", data, *options),
        ("repair", pruned, "-o", tmp_path / "out", "--data", data, *options),
        ("evaluate", world.llava, "--data", data, "--json", tmp_path / "out.json"),
        ("sweep", world.llava, "-o", tmp_path / "out", "--data", data, "--calibration", data),
    ):
        said = ressa(*command)
        assert said.status == 2
        assert "cannot be read (image file is truncated" in said.sentence
        assert "leave it out with --on-bad-sample skip" in said.sentence
    assert sorted(os.listdir(tmp_path)) == ["data", "pruned"]


def test_bad_samples_are_left_out_on_request_and_are_in_the_result(ressa, world, data, tmp_path):
    bad = picture(data, "test", 1)
    bad.write_bytes(b"")
    said = ressa(
        "evaluate",
        world.llava,
        "--data",
        data,
        "--tasks",
        "caption,retrieval",
        "--on-bad-sample",
        "skip",
        "--json",
    )
    assert said.status == 0, said.err
    result = json.loads(said.out)
    assert [task["n"] for task in result["tasks"].values()] == [3, 3]
    assert "on_bad_sample" not in result["recipe"]
    left_out = [each for each in result["warnings"] if "are left out" in each]
    assert len(left_out) == 1
    assert str(bad) in left_out[0]
    assert any("1 entry of" in line for line in warnings(said))


def test_fewer_samples_than_asked_for_is_in_the_result(ressa, world, tmp_path):
    said = ressa(
        "prune", world.llava, "-o", tmp_path / "out", "--calibration", world.data, "--samples", 5000, "--json"
    )
    assert said.status == 0, said.err
    assert any("5,000 samples were asked for" in each for each in json.loads(said.out)["warnings"])
    assert any("5,000 samples were asked for" in line for line in warnings(said))


def test_the_largest_picture_that_is_read_can_be_chosen(ressa, world, data):
    path = picture(data, "test")
    Image.new("RGB", (300, 200)).save(path)
    command = ("evaluate", world.llava, "--data", data, "--tasks", "caption", "--max-pixels")
    said = ressa(*command, 59_000)
    assert said.status == 2
    assert "has 60,000 pixels, and at most 59,000 are read (--max-pixels)" in said.sentence
    assert ressa(*command, 60_000).status == 0


def test_links_out_of_the_folder_are_followed_on_request(ressa, world, data, tmp_path):
    (data / "images" / "test").rename(tmp_path / "away")
    (data / "images" / "test").symlink_to(tmp_path / "away")
    command = ("evaluate", world.llava, "--data", data, "--tasks", "caption")
    said = ressa(*command)
    assert said.status == 2
    assert "leads out of the data folder" in said.sentence
    assert ressa(*command, "--follow-links").status == 0


def test_many_faults_are_one_sentence_and_a_table(ressa, world, data):
    path = data / "captions_test.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation["caption"] = None
    path.write_text(json.dumps(content))
    said = ressa("evaluate", world.llava, "--data", data, "--tasks", "caption")
    assert said.status == 2
    count = len(content["annotations"])
    assert said.sentence == (
        f"{count} entries of {data} cannot be used: correct them, or leave them out with --on-bad-sample skip."
    )
    rows = [" ".join(line.split()) for line in said.err.splitlines() if line.startswith("  ")]
    assert rows == [f"{path} annotations[0] and {count - 1} more the caption is null, not text"]


def test_a_killed_evaluation_goes_on_where_it_was(world, tmp_path, ressa):
    """Killed for good, as a full queue or a power cut would do it, between two batches."""
    output = tmp_path / "scores.json"
    arguments = [
        "evaluate",
        str(world.llava),
        "--data",
        str(world.data),
        "--tasks",
        "vqa,gqa",
        "--batch-size",
        "2",
    ]
    whole = ressa(*arguments, "--json")
    dying = (
        "import itertools, os, signal, sys; from ressa.evaluation.kept import Kept\n"
        "write, written = Kept.write, itertools.count(1)\n"
        "def write_three(*given):\n"
        "    write(*given)\n"
        "    if next(written) == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Kept.write = write_three\n"
        "from ressa.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", dying, *arguments, "--json", str(output)], capture_output=True, text=True
    )
    assert run.returncode == -signal.SIGKILL, run.stderr
    answers = tmp_path / ".scores.json.partial" / "answers.jsonl"
    left = len(Kept(answers))
    assert left >= 6
    assert not output.exists()
    said = ressa(*arguments, "--json", output)
    assert said.status == 0, said.err
    assert f"it left {left} answers" in " ".join(said.err.split())
    first, second = json.loads(whole.out), json.loads(output.read_text())
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    assert sorted(os.listdir(tmp_path)) == ["scores.json", "scores.predictions.jsonl"]


def test_an_evaluation_to_the_terminal_goes_on_too_and_one_of_another_model_does_not(
    world, tmp_path, ressa, monkeypatch
):
    monkeypatch.setenv("RESSA_CACHE", str(tmp_path / "cache"))
    plain = Kept.write

    def killed(self, *given):
        plain(self, *given)
        raise KeyboardInterrupt

    command = ("--data", world.data, "--tasks", "gqa", "--batch-size", 2)
    with monkeypatch.context() as patch:
        patch.setattr(Kept, "write", killed)
        assert ressa("evaluate", world.llava, *command).status == 130
    assert "it left" not in ressa("evaluate", world.instructblip, *command).err
    assert "it left 2 answers" in " ".join(ressa("evaluate", world.llava, *command).err.split())
    assert "it left" not in ressa("evaluate", world.llava, *command).err
