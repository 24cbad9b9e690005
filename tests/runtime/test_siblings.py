"""Layers that read the same input are computed in one call, and give what they would alone."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ressa.runtime.linear import PackedLinear
from ressa.runtime.model import find_siblings, pack_layers, weights_in_calls
from ressa.runtime.packing import PackedWeight
from ressa.runtime.prepared import PreparedWeight

WIDTH = 16
NAMES = ("q_proj", "k_proj", "v_proj")
ROWS = (12, 4, 8)


class Counted(PreparedWeight):
    """A weight that stacks, as those of the kernels do, on any device; it counts its calls."""

    calls = 0

    def __init__(self, packed: PackedWeight) -> None:
        super().__init__()
        self.canonical, self.rows = packed, packed.dense()
        self.weight = nn.Parameter(packed.values.new_empty(0), requires_grad=False)

    @classmethod
    def stack(cls, weights):
        whole = copy.copy(weights[0])
        whole.rows = torch.cat([weight.rows for weight in weights])
        return whole

    def linear(self, x, bias):
        if not torch.compiler.is_compiling():
            Counted.calls += 1
        return F.linear(x, self.rows, bias)

    def packed(self):
        return self.canonical


class Attention(nn.Module):
    def __init__(self, bias=(True, False, True)) -> None:
        super().__init__()
        for name, rows, has in zip(NAMES, ROWS, bias, strict=True):
            setattr(self, name, nn.Linear(WIDTH, rows, bias=has))

    def forward(self, x, other=None):
        other = x if other is None else other
        return torch.cat([self.q_proj(x), self.k_proj(other), self.v_proj(other)], -1)


@pytest.fixture
def counted(monkeypatch):
    monkeypatch.setattr("ressa.runtime.kernels.prepare", Counted)
    monkeypatch.setattr(Counted, "calls", 0)


def pruned(model):
    """The model with zeros by twos in fours, and its masks."""
    kept = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            scores = torch.rand(layer.weight.shape).view(len(layer.weight), -1, 4)
            kept[name] = scores.argsort(2).lt(2).flatten(1)
            layer.weight.data.masked_fill_(~kept[name], 0.0)
    return model.requires_grad_(False), kept


def packed_copy(model, kept):
    model = copy.deepcopy(model)
    pack_layers(model, kept)
    return model


@pytest.fixture
def pair(counted):
    """A dense module with zeros, and the same one packed."""
    torch.manual_seed(0)
    dense, kept = pruned(Attention())
    return dense, packed_copy(dense, kept)


def calls_of(run):
    Counted.calls = 0
    found = run()
    return found, Counted.calls


def test_one_call_makes_the_parts_of_all(pair):
    dense, packed = pair
    for x in (torch.randn(3, WIDTH), torch.randn(2, 5, WIDTH), torch.randn(0, WIDTH), torch.randn(WIDTH)):
        found, calls = calls_of(lambda x=x: packed(x))
        torch.testing.assert_close(found, dense(x))
        assert calls == 1
    assert packed.q_proj.siblings._waiting is None  # nothing is held on to


def test_whoever_gets_another_input_is_no_sibling(pair):
    dense, packed = pair
    x, other = torch.randn(3, WIDTH), torch.randn(3, WIDTH)
    for _ in range(3):
        torch.testing.assert_close(packed(x, other), dense(x, other))
    assert calls_of(lambda: packed(x, other))[1] == 3
    torch.testing.assert_close(packed(x), dense(x))


def test_layers_called_out_of_turn_are_right(pair):
    dense, packed = pair
    x = torch.randn(3, WIDTH)
    for name in ("v_proj", "q_proj", "k_proj", "k_proj", "q_proj"):
        y = torch.randn(3, WIDTH)
        for each in (x, x, y):
            layer = packed.get_submodule(name)
            torch.testing.assert_close(layer(each), dense.get_submodule(name)(each))


def test_an_input_that_learns_gets_its_gradient_from_each(pair):
    dense, packed = pair
    grads = []
    for model in (dense, packed):
        x = torch.ones(3, WIDTH, requires_grad=True)
        model(x).square().sum().backward()
        grads.append(x.grad)
    torch.testing.assert_close(*grads)


def test_they_are_stacked_anew_where_they_go_and_part_when_they_are_unpacked(pair):
    dense, packed = pair
    x = torch.randn(3, WIDTH)
    for model in (packed.half().float(), copy.deepcopy(packed), packed.requires_grad_(False)):
        found, calls = calls_of(lambda model=model: model(x))
        assert calls == 1
        torch.testing.assert_close(found, dense(x), atol=2e-3, rtol=2e-3)
    packed.k_proj.prepare("dense")
    assert calls_of(lambda: packed(x))[1] == 2
    packed.k_proj.prepare("auto")
    assert calls_of(lambda: packed(x))[1] == 1
    state = {name: value.clone() for name, value in packed.state_dict().items()}
    state["v_proj.bias"] += 1
    before = packed(x)
    packed.load_state_dict(state)
    torch.testing.assert_close(packed(x)[..., -8:], before[..., -8:] + 1)


def test_a_lone_layer_and_one_of_another_width_have_no_siblings(counted):
    model = nn.ModuleDict({"q_proj": nn.Linear(8, 4), "k_proj": nn.Linear(16, 4), "other": nn.Linear(8, 4)})
    model = packed_copy(*pruned(model))
    assert all(layer.siblings is None for layer in model.values())
    assert len(weights_in_calls(model)) == 3


def test_what_is_tuned_is_what_is_called(pair):
    _, packed = pair
    (weight,) = weights_in_calls(packed)
    assert weight is packed.q_proj.siblings.stacked


def test_compiled_they_are_one_product_and_one_graph_serves_all_layers(pair):
    dense, packed = pair
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    others = [packed_copy(*pruned(Attention())) for _ in range(3)]
    x = torch.randn(3, WIDTH)
    compiled = torch.compile(packed, fullgraph=True, backend=backend)
    for _ in range(2):
        torch.testing.assert_close(compiled(x), dense(x))
    (graph,) = graphs
    products = [node for node in graph.graph.nodes if "linear" in str(node.target)]
    assert len(products) == 1
    assert packed.q_proj.siblings._waiting is None
    forward = torch.compile(Attention.forward, fullgraph=True, backend=backend)
    torch._dynamo.reset()
    graphs.clear()
    for model in others:
        torch.testing.assert_close(forward(model, x), model(x))
    assert len(graphs) == 1


def test_compiled_whoever_gets_another_input_is_no_sibling(pair):
    dense, packed = pair
    torch._dynamo.reset()
    compiled = torch.compile(packed, backend="aot_eager")
    x, other = torch.randn(3, WIDTH), torch.randn(3, WIDTH)
    for _ in range(3):
        torch.testing.assert_close(compiled(x, other), dense(x, other))
    assert packed.q_proj.siblings.stacked is None


def test_on_a_cpu_nothing_is_stacked():
    model = packed_copy(*pruned(Attention()))
    find_siblings(model)
    assert isinstance(model.q_proj, PackedLinear)
    assert model.q_proj.siblings.stacked is None
    assert len(weights_in_calls(model)) == 3
