import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ressa.errors import UsageError
from ressa.sparsity import NM, Plan, Unstructured, global_plan, select_global
from ressa.sparsity.select import nearest

plan = Plan({"b.fc": NM(2, 4), "a.fc": Unstructured(0.6), "c.fc": Unstructured(0.5, "layer")})


def test_a_plan_survives_json():
    again = Plan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again == plan
    assert list(again) == ["b.fc", "a.fc", "c.fc"]
    assert again["b.fc"] == NM(2, 4)


def test_a_plan_does_not_follow_the_dict_it_was_made_from():
    patterns = {"a": NM(1, 4)}
    made = Plan(patterns)
    patterns["a"] = NM(2, 4)
    assert made["a"] == NM(1, 4)


def test_a_layer_that_the_model_lacks_is_named():
    with pytest.raises(UsageError, match=r"'c\.fc'"):
        plan.check({"a.fc": (4, 8), "b.fc": (4, 8)})


def test_a_pattern_that_does_not_fit_names_its_layer():
    with pytest.raises(UsageError, match=r"b\.fc: .*30 inputs"):
        plan.check({"a.fc": (4, 8), "b.fc": (4, 30), "c.fc": (4, 8)})
    plan.check({"a.fc": (4, 9), "b.fc": (4, 28), "c.fc": (4, 8), "dense": (3, 3)})


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 12)), min_size=1, max_size=4),
    st.floats(0, 1, exclude_max=True),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_a_global_threshold_is_one_sort_over_all_layers(shapes, sparsity, tied, seed):
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    for i, shape in enumerate(shapes):
        values = torch.randn(shape, generator=generator)
        layers[f"layer{i}"] = values.round() if tied else values
    masks = select_global(layers, sparsity)
    flat = torch.cat([each.flatten() for each in layers.values()]) + 0.0
    zeros = nearest(sparsity, len(flat))
    expected = torch.zeros(len(flat), dtype=torch.bool)
    expected[flat.argsort(descending=True, stable=True)[: len(flat) - zeros]] = True
    assert torch.equal(torch.cat([masks[name].flatten() for name in layers]), expected)
    assert int((~expected).sum()) == zeros


@settings(deadline=None, max_examples=60)
@given(st.floats(0, 1, exclude_max=True), st.booleans(), st.integers(0, 2**31))
def test_a_global_plan_gives_the_masks_of_the_global_threshold(sparsity, tied, seed):
    generator = torch.Generator().manual_seed(seed)
    layers = {
        name: torch.randn(5, 7, generator=generator) * scale
        for name, scale in (("a", 1), ("b", 50), ("c", 1e-3))
    }
    if tied:
        layers = {name: scores.round() for name, scores in layers.items()}
    masks = select_global(layers, sparsity)
    for name, pattern in global_plan(layers, sparsity).items():
        assert torch.equal(pattern.select(layers[name]), masks[name])


def test_a_global_plan_can_lose_a_whole_layer():
    layers = {"small": torch.rand(4, 4), "large": torch.rand(4, 4) + 2}
    plan = global_plan(layers, 0.5)
    assert not plan["small"].select(layers["small"]).any()
    assert plan["large"].select(layers["large"]).all()


def test_a_global_sparsity_out_of_range_is_refused():
    with pytest.raises(UsageError, match="1\\.0"):
        select_global({"a": torch.ones(2, 2)}, 1.0)
