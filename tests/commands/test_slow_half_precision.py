"""On a device without fast bfloat16, `--dtype auto` computes in float32 and writes what the checkpoint has."""

import json

import pytest
import torch

from ressa.checkpoint import StreamedWeights, load, read_manifest, read_masks


@pytest.fixture
def slow(monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")


@pytest.fixture(scope="module")
def halved(world, tmp_path_factory):
    """The tiny LLaVA, saved in bfloat16."""
    folder = tmp_path_factory.mktemp("halved") / "llava"
    vlm = load(world.llava, dtype=torch.bfloat16)
    vlm.model.save_pretrained(folder)
    vlm.processor.save_pretrained(folder)
    return folder


def states(*folders):
    models = [load(folder).model for folder in folders]
    assert [model.dtype for model in models] == [torch.bfloat16, torch.float32]
    return [model.state_dict() for model in models]


def test_pruned_and_repaired_in_float32_and_stored_in_bfloat16(ressa, world, halved, tmp_path, slow):
    def prune(name, *more):
        return ressa("prune", halved, "-o", tmp_path / name, "--calibration", world.data, "--samples", 6,
                     "--method", "wanda", *more)  # fmt: skip

    def repair(source, name, *more):
        return ressa("repair", source, "-o", tmp_path / name, "--data", world.data, "--samples", 8,
                     "--batch-size", 4, *more)  # fmt: skip

    pruned, repaired = tmp_path / "pruned", tmp_path / "repaired"
    assert prune("pruned").status == prune("pruned32", "--dtype", "float32").status == 0
    assert repair(pruned, "repaired").status == repair(pruned, "repaired32", "--dtype", "float32").status == 0
    masks = read_masks(pruned)
    for folder in (pruned, repaired):
        assert read_manifest(folder).computed_in == "float32"
        ours, wide = states(folder, f"{folder}32")
        for name in ours:
            assert torch.equal(ours[name], wide[name].bfloat16()), name
        for name, mask in masks.items():
            assert torch.equal(ours[f"{name}.weight"] != 0, mask), name


def test_what_is_asked_for_is_done_however_slow(ressa, world, halved, tmp_path, slow):
    said = ressa("prune", halved, "-o", tmp_path / "pruned", "--calibration", world.data, "--samples", 6,
                 "--dtype", "bfloat16")  # fmt: skip
    assert said.status == 0
    assert read_manifest(tmp_path / "pruned").computed_in == "bfloat16"


def test_scores_say_in_what_they_were_computed(ressa, world, halved, slow):
    for options, dtype in (((), "float32"), (("--dtype", "bfloat16"), "bfloat16")):
        said = ressa(
            "evaluate", halved, "--data", world.data, "--tasks", "gqa", "--limit", 1, "--json", *options
        )
        assert json.loads(said.out)["computed_in"] == dtype


@pytest.mark.parametrize("ways", [("--no-stream", "--stream"), ("--stream", "--no-stream")])
def test_a_run_goes_on_wherever_its_weights_are_meanwhile(
    ressa, world, halved, tmp_path, slow, monkeypatch, ways
):
    """Kept blocks are those of the same model, whether it was widened in memory or is narrow on disk."""

    def prune(name, how):
        return ressa("prune", halved, "-o", tmp_path / name, "--calibration", world.data, "--samples", 6, how)

    keep, kept = StreamedWeights.keep, []

    def keep_two(self, block, *more):
        if len(kept) == 2:
            raise KeyboardInterrupt
        kept.append(block.name)
        return keep(self, block, *more)

    assert prune("whole", ways[0]).status == 0
    with monkeypatch.context() as patched:
        patched.setattr(StreamedWeights, "keep", keep_two)
        assert prune("cut", ways[0]).status == 130
    said = prune("cut", ways[1])
    assert said.status == 0, said.err
    assert "finished 2 of" in said.err
    for path in (tmp_path / "whole").glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "cut" / path.name).read_bytes()
