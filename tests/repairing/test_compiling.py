"""Compiled blocks learn what the others do, and are themselves again afterwards."""

import pytest
import torch
from repairing.test_repair import FAST
from repairing.tiny import pruned_pair, samples
from torch._dynamo.exc import TorchDynamoException
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from ressa.anatomy import find_anatomy
from ressa.errors import RunError
from ressa.repairing import RepairConfig, repair
from ressa.repairing.compiling import compiled_blocks

LENGTHS = ("what is in the picture ?", "is it red ?", "what is in the picture and what is it ?", "red ?")


def varied(count):
    return [
        type(each)(each.image, LENGTHS[i % 4], each.target, each.id) for i, each in enumerate(samples(count))
    ]


@pytest.fixture
def backend(monkeypatch):
    """Graphs are counted and run as they are: a compiler of C++ takes minutes over those of training."""
    counter = CompileCounterWithBackend("eager")
    own = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **given: own(function, backend=counter, **given))
    torch._dynamo.reset()
    counters.clear()
    yield counter
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "options",
    [
        {"method": "masked_finetune"},
        {"method": "sparse_lora", "gradient_checkpointing": True, "hidden_weight": 0.5},
    ],
    ids=["separate", "shared"],
)
def test_they_learn_the_same(options, backend):
    found = []
    for compiled in (False, True):
        pruned, masks, dense = pruned_pair("llava")
        config = RepairConfig(**FAST | {"steps": 4, "compile": compiled, "batch_size": 2} | options)
        result = repair(pruned, masks, dense, varied(8), config)
        found.append((result, pruned.model.state_dict()))
        for module in (*pruned.model.modules(), *dense.model.modules()):
            assert "forward" not in module.__dict__
    plain, compiled = found
    assert backend.frame_count
    for ours, theirs in zip(compiled[0].history, plain[0].history, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    for name, value in plain[1].items():
        torch.testing.assert_close(compiled[1][name], value, rtol=1e-3, atol=1e-4)
    assert not counters["graph_break"], dict(counters["graph_break"])
    assert backend.frame_count <= 16


@pytest.mark.parametrize("before", [True, False], ids=["after a forward", "at once"])
def test_features_are_taken_from_the_layer_they_always_were(before, backend):
    """LLaVA reads the last layer but one, which it finds among what hooks have recorded."""
    pruned, _, _ = pruned_pair("llava")
    model = pruned.model.eval()
    pictures = torch.rand(1, 3, *[model.config.vision_config.image_size] * 2)
    names = [block.name for block in find_anatomy(model).blocks()]

    def features():
        states = model.model.vision_tower(pictures, output_hidden_states=True).hidden_states
        found = model.get_image_features(pictures, vision_feature_layer=-2)
        return len(states), torch.cat(list(getattr(found, "pooler_output", found)))

    expected = features() if before else None
    with torch.no_grad(), compiled_blocks([model], names):
        within = features()
    after = features()
    for count, value in (within, after):
        assert count == (expected or after)[0] == model.config.vision_config.num_hidden_layers + 1
        torch.testing.assert_close(value, (expected or after)[1])


def test_blocks_that_cannot_be_compiled_are_a_sentence_and_left_as_they_were(monkeypatch):
    def broken(function, **given):
        def fails(*args, **kwargs):
            raise TorchDynamoException("no compiler is here\nat all")

        return fails

    monkeypatch.setattr(torch, "compile", broken)
    pruned, masks, dense = pruned_pair("llava")
    before = {name: value.clone() for name, value in pruned.model.state_dict().items()}
    with pytest.raises(
        RunError, match=r"cannot compile the model's blocks \(no compiler is here at all\): leave"
    ):
        repair(pruned, masks, dense, samples(8), RepairConfig(**FAST, compile=True))
    assert all("forward" not in module.__dict__ for module in pruned.model.modules())
    assert all(torch.equal(value, before[name]) for name, value in pruned.model.state_dict().items())
