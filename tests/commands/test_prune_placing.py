"""`ressa prune` with the weights on disk, and what it says about its time."""

import json

import pytest
import torch
from safetensors.torch import load_file

from ressa.checkpoint import placing


def weights(folder):
    return {
        key: value for path in folder.glob("model*.safetensors") for key, value in load_file(path).items()
    }


@pytest.fixture
def options(world):
    return ("--calibration", world.data, "--samples", 4, "--pattern", "2:4", "--device", "cpu")


@pytest.mark.parametrize("model", ["llava", "instructblip"])
@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_streaming_makes_the_same_model(ressa, world, options, model, method, tmp_path):
    source = getattr(world, model)
    made = {}
    for how in ("--stream", "--no-stream"):
        folder = tmp_path / how
        assert ressa("prune", source, "-o", folder, *options, "--method", method, how).status == 0
        made[how] = weights(folder)
        manifest = json.loads((folder / "ressa.json").read_text())
        assert {"load", "samples", "calibrate", "prune", "save"} <= manifest["spent"].keys()
        assert {layer["achieved"] for layer in manifest["layers"] if layer["asked"] == "2:4"} == {0.5}
    assert made["--stream"].keys() == made["--no-stream"].keys()
    assert all(torch.equal(value, made["--no-stream"][key]) for key, value in made["--stream"].items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["--no-stream", "--stream"]  # no work is left
    beside = [
        sorted(path.name for path in (tmp_path / how).iterdir() if path.suffix != ".safetensors")
        for how in made
    ]
    assert beside[0] == beside[1]


def test_a_model_that_does_not_fit_is_streamed_unasked(ressa, world, options, monkeypatch, tmp_path):
    options = (*options, "--method", "wanda")  # one that changes no weights, and so writes none as it goes
    finish, streamed = placing.StreamedWeights.finish, []
    monkeypatch.setattr(
        placing.StreamedWeights,
        "finish",
        lambda self, target: (streamed.append(target), finish(self, target)),
    )
    assert ressa("prune", world.llava, "-o", tmp_path / "fits", *options).status == 0
    assert not streamed
    monkeypatch.setattr(placing, "host_memory", lambda: 1000)
    assert ressa("prune", world.llava, "-o", tmp_path / "large", *options).status == 0
    assert len(streamed) == 1
    assert ressa("prune", world.llava, "-o", tmp_path / "told", *options, "--no-stream").status == 0
    assert len(streamed) == 1


def test_streaming_is_refused_where_it_cannot_be(ressa, world, options, tmp_path):
    said = ressa("prune", world.llava, "-o", tmp_path / "out", *options, "--stream", "--dtype", "bfloat16")
    assert said.status == 2
    assert "cannot be streamed" in said.sentence
    options = (*options[:4], "--sparsity", "0.5", "--allocation", "owl")
    said = ressa("prune", world.llava, "-o", tmp_path / "out", *options, "--stream")
    assert said.status == 2
    assert "looks at the whole model" in said.sentence


def test_it_says_where_the_time_went(ressa, world, options, tmp_path):
    said = ressa("prune", world.llava, "-o", tmp_path / "out", *options)
    assert "Where the time went: samples" in said.out
    assert "calibrate" in said.out
    repair = ("--data", world.data, "--samples", 8, "--batch-size", 4, "--device", "cpu")
    said = ressa("repair", tmp_path / "out", "-o", tmp_path / "repaired", *repair)
    assert all(part in said.out for part in ("Where the time went: load", "judge", "reconstruct", "save"))


@pytest.mark.parametrize("how", ["--stream", "--no-stream"])
def test_an_interrupted_run_goes_on_to_the_same_bytes(ressa, world, options, how, monkeypatch, tmp_path):
    command = ("prune", world.llava, *options, "--method", "sparsegpt", how)
    assert ressa(*command, "-o", tmp_path / "whole").status == 0
    keep, kept = placing.StreamedWeights.keep, []

    def keep_two(self, block, *more):
        if len(kept) == 2:
            raise KeyboardInterrupt
        kept.append(block.name)
        return keep(self, block, *more)

    monkeypatch.setattr(placing.StreamedWeights, "keep", keep_two)
    assert ressa(*command, "-o", tmp_path / "cut").status == 130
    monkeypatch.setattr(
        placing.StreamedWeights,
        "keep",
        lambda self, *given: (kept.append(given[0].name), keep(self, *given))[1],
    )
    assert ressa(*command, "-o", tmp_path / "cut").status == 0
    assert len(kept) == len(set(kept))  # nothing is done twice
    for path in (tmp_path / "whole").glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "cut" / path.name).read_bytes()
