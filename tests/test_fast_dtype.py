"""Which half precision is fast where, and models that compute in float32 for a while."""

import pytest
import torch
from torch import nn

from ressa.fast_dtype import SMALL, in_fast_dtype, is_fast, is_slow, means_bf16, waits_for_host


@pytest.mark.parametrize(
    ("units", "limit", "fast"),
    [
        ({"amx_bf16": True}, None, True),
        ({"amx_bf16": True}, "avx512_core_amx", True),
        ({"amx_bf16": True}, "AVX2", False),
        ({"amx_bf16": False, "avx512_bf16": True}, None, False),
        ({"neon": True, "bf16": True}, None, False),
    ],
)
def test_on_a_cpu_bfloat16_is_fast_with_amx_that_onednn_may_use(monkeypatch, units, limit, fast):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if limit is not None:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert is_fast(torch.bfloat16, "cpu") is fast
    assert not is_fast(torch.float16, "cpu")


@pytest.mark.parametrize("bfloat16", [True, False])
def test_on_a_gpu_float16_is_fast_and_bfloat16_where_it_has_it(monkeypatch, bfloat16):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bfloat16)
    assert is_fast(torch.float16, "cuda:1")
    assert is_fast(torch.bfloat16, "cuda:1") is bfloat16


@pytest.fixture
def slow(monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")


class Mixed(nn.Module):
    """Half precision beside float32, a tied weight, a buffer of each."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4, dtype=dtype)
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.first.weight
        self.norm = nn.LayerNorm(4)
        self.register_buffer("scale", torch.ones(4, dtype=dtype))
        self.register_buffer("positions", torch.arange(4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_each_tensor_has_its_own_dtype_and_value_again(slow, dtype):
    model = Mixed(dtype)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with in_fast_dtype(model, device="cpu") as name:
        assert name == "float32"
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert (model.scale.dtype, model.positions.dtype) == (torch.float32, torch.int64)
        assert model.tied.weight is model.first.weight
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name])


def test_a_weight_too_small_for_float16_does_not_become_a_zero(slow):
    model = nn.Linear(2, 1, bias=False, dtype=torch.float16)
    with in_fast_dtype(model, device="cpu"):
        model.weight.data = torch.tensor([[1e-12, 0.0]])
    assert model.weight.dtype == torch.float16
    assert (model.weight != 0).tolist() == [[True, False]]


def test_models_that_are_fast_or_asked_for_in_a_dtype_stay_as_they_are(slow, monkeypatch):
    model = nn.Linear(2, 1, dtype=torch.bfloat16)
    with in_fast_dtype(model, device="cpu", asked="bfloat16") as name:
        assert name == "bfloat16"
    monkeypatch.setattr("ressa.fast_dtype.is_fast", lambda dtype, device: True)
    with in_fast_dtype(model, device="cpu") as name:
        assert name == "bfloat16"


@pytest.mark.parametrize(("weights", "small"), [(SMALL - 1, True), (SMALL, False)])
def test_on_a_gpu_a_small_model_trains_in_float32_without_autocast(monkeypatch, weights, small):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    narrow = nn.Linear(weights, 1, bias=False, device="meta", dtype=torch.bfloat16)
    wide = nn.Linear(weights, 1, bias=False, device="meta")
    assert waits_for_host(wide, "cuda") is small
    assert not waits_for_host(wide, "cpu")
    assert means_bf16("auto", "cuda", wide) is not small
    assert means_bf16("auto", "cuda", narrow)  # a model that was left in its half precision
    assert means_bf16("bf16", "cuda", wide)
    assert not means_bf16("fp32", "cuda", narrow)
    assert is_slow(narrow, "cuda", trains=True) is small
    assert not is_slow(narrow, "cuda")
    with in_fast_dtype(narrow, device="cuda") as name:
        assert name == "bfloat16"
    with in_fast_dtype(narrow, wide, device="cuda", asked="bfloat16", trains=True) as name:
        assert name == "bfloat16"
