"""What a model is repaired by follows from what it is: words, pairs, or blocks alone."""

import copy
import warnings

import pytest
import torch
import transformers as hf
from dual.models import DUAL, TEXT_TOWER, words
from PIL import Image
from repairing.tiny import TinyVlm

from ressa.data import Sample, batches
from ressa.errors import UsageError
from ressa.pruning import prune
from ressa.repairing import RepairConfig, repair
from ressa.warned import RessaWarning
from tests.data.vlms import IMAGE_SIZE, SQUARE, spread, vision

TEXTS = ["a red cat", "two blue dog with a tree", "the house", "three bird"]


def samples(count):
    colours = ["red", "blue", "white", "green"]
    return [
        Sample(Image.new("RGB", (40 + i, 30), colours[i % 4]), "what is it ?", TEXTS[i % 4], str(i))
        for i in range(count)
    ]


def git():
    """Its logits run along the picture's positions, too."""
    text = {key: value for key, value in TEXT_TOWER.items() if key != "projection_dim"}
    config = hf.GitConfig(vision_config=vision(), **{**text, "max_position_embeddings": 64})
    images = hf.CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=SQUARE)
    return spread(hf.GitForCausalLM(config)), hf.GitProcessor(images, words())


def owlvit_detector():
    eye = {**vision(), "projection_dim": 32}
    config = hf.OwlViTConfig(text_config=TEXT_TOWER, vision_config=eye, projection_dim=32)
    images = hf.OwlViTImageProcessor(size=SQUARE, crop_size=SQUARE)
    return spread(hf.OwlViTForObjectDetection(config)), hf.OwlViTProcessor(images, words(begin=True))


def pruned(build):
    model, processor = build()
    dense = TinyVlm(copy.deepcopy(model), processor)
    masks = prune(model, batches(TinyVlm(model, processor), samples(4)), "2:4", method="wanda").masks
    return TinyVlm(model, processor), masks, dense


def repaired(build, count=40, **options):
    vlm, masks, dense = pruned(build)
    config = RepairConfig(
        **{
            "batch_size": 8,
            "steps": 3,
            "learning_rate": 1e-3,
            "device": "cpu",
            "precision": "fp32",
            **options,
        }
    )
    before = copy.deepcopy(vlm.model.state_dict())
    result = repair(vlm, masks, dense, samples(count), config)
    return result, before


def test_git_learns_words():
    result, before = repaired(git)
    assert result.objective == "words"
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    after = result.vlm.model.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_detector_has_its_blocks_reconstructed():
    with pytest.warns(RessaWarning, match="nothing is trained as a whole"):
        result, _ = repaired(owlvit_detector, warm_start=True, reconstruct_epochs=2, reconstruct_samples=8)
    assert result.objective == "none"
    assert not result.history
    assert all(block["loss"] <= block["before"] for block in result.blocks)
    assert sum(block["loss"] < 0.8 * block["before"] for block in result.blocks) >= 4


def test_without_reconstruction_a_detector_is_refused():
    with pytest.raises(UsageError, match="only block-wise reconstruction"):
        repaired(owlvit_detector)


@pytest.mark.parametrize("name", ["clip", "siglip", "blip2", "colpali"])
def test_one_copy_of_the_weights_teaches_as_two_do(name):
    """The shared teacher is the dense model, in every forward that a dual encoder takes."""
    results = []
    for teacher in ("shared", "separate"):
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RessaWarning)
            result, _ = repaired(DUAL[name], teacher=teacher, objective="kd", held_back=0)
        assert result.teacher == teacher
        results.append(result)
    shared, separate = (result.vlm.model.state_dict() for result in results)
    for key in shared:
        torch.testing.assert_close(shared[key], separate[key], rtol=1e-3, atol=1e-5)
    first = results[0].history[0]
    assert first["embedding_loss"] > 0
    assert first["kd_loss"] > 0


def test_a_run_cut_short_goes_on_to_the_same_end(tmp_path, monkeypatch):
    from ressa.repairing.training import Progress

    def run(work):
        vlm, masks, dense = pruned(DUAL["blip"])  # draws hard negatives: random numbers go on, too
        config = RepairConfig(
            batch_size=8, steps=6, checkpoints=3, device="cpu", precision="fp32", held_back=0
        )
        result = repair(vlm, masks, dense, samples(40), config, work_dir=work)
        return result.vlm.model.state_dict()

    whole = run(tmp_path / "whole")

    class Cut(Exception):
        pass

    def stop(self, args, state, control, **_):
        if state.global_step == 5:
            raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "on_step_end", stop)
        with pytest.raises(Cut):
            run(tmp_path / "cut")
    again = run(tmp_path / "cut")
    for name, value in whole.items():
        assert torch.equal(value, again[name]), name
