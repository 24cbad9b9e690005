"""The layer that holds a packed weight computes, moves, saves and loads like a dense one."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ressa.errors import UsageError
from ressa.runtime.linear import PackedLinear
from ressa.runtime.packing import pack
from tests.runtime.test_packing import DTYPES, pruned, same_bits

MODES = ("auto", "packed", "dense")


def layer(pattern="2:4", dtype=torch.float32, mode="auto", rows=12, width=24, bias=True):
    weight, mask = pruned(rows, width, pattern, dtype)
    weight = weight.nan_to_num(1.0, 2.0, -2.0)
    made = torch.randn(rows).to(dtype) if bias else None
    return PackedLinear.of(pack(weight, mask), made, mode), weight


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("pattern", "rows", "width"), [("2:4", 12, 24), ("0.5", 7, 13), ("0.7@layer", 5, 9)])
def test_is_equal_to_the_dense_layer(pattern, rows, width, dtype, mode):
    for bias in (True, False):
        packed, weight = layer(pattern, dtype, mode, rows, width, bias)
        assert same_bits(packed.dense(), weight)
        for shape in ((3, width), (width,), (2, 0, width), (2, 3, width)):
            x = torch.randn(shape).to(dtype)
            assert torch.equal(packed(x), F.linear(x, weight, packed.bias))


@pytest.mark.parametrize("mode", MODES)
def test_its_state_dict_is_the_canonical_form_whatever_it_computes_with(mode):
    packed, _ = layer(mode=mode)
    canonical = packed.packed()
    state = packed.state_dict()
    assert set(state) == {"weight", "positions", "shape", "bias"}
    assert state["shape"].tolist() == [12, 24]
    assert same_bits(state["weight"], canonical.values)
    other, _ = layer("0.5")
    other = PackedLinear(24, 12, form="2:4", kept=144, mode=mode)
    other.load_state_dict(state)
    other.prepare()
    other.load_state_dict(state)
    assert same_bits(other.dense(), packed.dense())
    assert same_bits(copy.deepcopy(other).dense(), packed.dense())


@pytest.mark.parametrize("mode", MODES)
def test_changing_the_dtype_changes_the_values_and_no_place(mode):
    packed, weight = layer("0.5", mode=mode)
    mask = packed.packed().mask()
    halved = packed.half()
    assert halved.weight.dtype == torch.float16
    assert halved.bias.dtype == torch.float16
    assert same_bits(halved.dense(), weight.half())
    assert torch.equal(halved.packed().mask(), mask)


def test_in_packed_mode_it_holds_no_more_than_the_packed_bytes():
    packed, weight = layer("0.5", rows=64, width=256, mode="packed", bias=False)
    held = sum(t.nbytes for t in (*packed.parameters(), *packed.buffers()))
    shape = 16  # bytes
    assert held == packed.packed().nbytes + shape < weight.nbytes


@pytest.mark.parametrize("mode", MODES)
def test_compiles_without_a_break_and_passes_gradients_to_its_input(mode):
    packed, weight = layer("0.5", mode=mode)
    x = torch.randn(3, 24, requires_grad=True)
    compiled = torch.compile(packed, fullgraph=True, backend="aot_eager")
    compiled(x).sum().backward()
    assert torch.allclose(x.grad, weight.sum(0).expand(3, -1), atol=1e-5)


def test_goes_through_meta_and_back():
    packed, weight = layer("0.5")
    state = {name: tensor.clone() for name, tensor in packed.state_dict().items()}
    empty = nn.Sequential(copy.deepcopy(packed)).to("meta").to_empty(device="cpu")[0]
    empty.load_state_dict(state)
    assert same_bits(empty.dense(), weight)


def test_an_unknown_mode_is_refused():
    packed, _ = layer()
    with pytest.raises(UsageError, match="auto, packed, dense"):
        packed.prepare("fast")
