"""Fused weights stand apart as plain linears that compute the same, and come together again as they are by then."""

import pytest
import torch
import transformers as hf
from torch import nn
from transformers.models.aria.modeling_aria import AriaExperts
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts
from transformers.models.llama4.modeling_llama4 import Llama4TextExperts
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHExperts
from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import Qwen3VLMoeTextExperts
from transformers.pytorch_utils import Conv1D

from ressa.fused import ROWS, join, parts, split, splitted

HIDDEN, INNER, EXPERTS, TOKENS = 16, 24, 3, 10


def _qwen():
    config = hf.Qwen3VLMoeTextConfig(hidden_size=HIDDEN, moe_intermediate_size=INNER, num_experts=EXPERTS)
    return Qwen3VLMoeTextExperts(config)


def _gpt_oss():
    return GptOssExperts(
        hf.GptOssConfig(hidden_size=HIDDEN, intermediate_size=INNER, num_local_experts=EXPERTS)
    )


def _nemotron():
    config = hf.NemotronHConfig(hidden_size=HIDDEN, moe_intermediate_size=INNER, n_routed_experts=EXPERTS)
    return NemotronHExperts(config)


def _aria():
    config = hf.AriaTextConfig(
        hidden_size=HIDDEN, intermediate_size=INNER, moe_num_experts=EXPERTS, num_attention_heads=2
    )
    return AriaExperts(config)


def _llama4():
    config = hf.Llama4TextConfig(hidden_size=HIDDEN, intermediate_size=INNER, num_local_experts=EXPERTS)
    return Llama4TextExperts(config)


ROUTED = {"gate and up": _qwen, "interleaved, biased": _gpt_oss, "no gate": _nemotron, "transposed": _aria}


def holding(module: nn.Module) -> nn.Module:
    """A model with the module as its `part`, weights drawn anew."""
    model = nn.Module()
    model.part = module
    if hasattr(module, "config"):
        module.config._experts_implementation = "eager"
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def routed() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(TOKENS, HIDDEN, generator=generator)
    scores, index = torch.rand(TOKENS, EXPERTS, generator=generator).topk(2)
    return x, index, scores


@pytest.mark.parametrize("make", ROUTED.values(), ids=ROUTED)
def test_routed_experts_compute_the_same_as_plain_linears(make):
    model = holding(make())
    expected = model.part(*routed())
    with splitted(model):
        assert all(type(model.get_submodule(name)) is nn.Linear for name in parts(model))
        torch.testing.assert_close(model.part(*routed()), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.part(*routed()), expected)


def test_experts_whose_tokens_come_sorted_compute_the_same():
    model = holding(_llama4())
    x = torch.randn(EXPERTS, TOKENS, HIDDEN) * (torch.rand(EXPERTS, TOKENS, 1) < 0.5)
    expected = model.part(x.view(-1, HIDDEN))
    with splitted(model):
        torch.testing.assert_close(model.part(x.view(-1, HIDDEN)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [*ROUTED.values(), _llama4], ids=[*ROUTED, "sorted"])
def test_the_parts_say_where_each_weight_lies(make):
    model = holding(make())
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    split(model)
    found = parts(model)
    assert len(found) == EXPERTS * (2 if make is _nemotron else 3)
    for layer, part in found.items():
        assert torch.equal(model.get_submodule(layer).weight, part.of(before[part.parameter]))
    kept = sum(model.get_submodule(layer).weight.numel() for layer in found)
    assert kept == sum(p.numel() for p in before.values() if p.dim() == 3)


@pytest.mark.parametrize("moved", [False, True], ids=["in place", "in other memory and precision"])
def test_what_was_done_to_the_linears_is_in_the_fused_weights_afterwards(moved):
    model = holding(_gpt_oss())
    names = list(model.state_dict())
    split(model)
    layer = "part.1.up_proj"
    part = parts(model)[layer]
    with torch.no_grad():
        for name in parts(model):
            model.get_submodule(name).weight.mul_(2)
        model.get_submodule(layer).weight[3] = 0
        if moved:
            model.double()
        expected = model.get_submodule(layer).weight.clone()
        bias = model.get_submodule(layer).bias.clone()
    join(model)
    assert list(model.state_dict()) == names
    assert torch.equal(part.of(model.part.gate_up_proj), expected)
    assert torch.equal(model.part.gate_up_proj_bias[1, 1::2], bias)
    assert model.part.gate_up_proj.dtype == (torch.float64 if moved else torch.float32)


def test_splitting_copies_nothing_and_holds_nothing_twice():
    model = holding(_qwen())
    memory = model.part.gate_up_proj.untyped_storage().data_ptr()
    split(model)
    assert model.part.original.gate_up_proj.numel() == 0
    assert model.get_submodule("part.2.up_proj").weight.untyped_storage().data_ptr() == memory
    join(model)
    assert model.part.gate_up_proj.data_ptr() == memory


def test_an_experts_linears_know_which_tokens_they_are_given():
    model = holding(_qwen())
    split(model)
    x, index, scores = routed()
    seen = {}
    for name in ("part.1.gate_proj", "part.1.down_proj"):
        hook = lambda _module, args, name=name: seen.update({name: getattr(args[0], ROWS).numbers})  # noqa: E731
        model.get_submodule(name).register_forward_pre_hook(hook)
    model.part(x, index, scores)
    expected = (index == 1).any(1).nonzero().squeeze(1)
    assert torch.equal(seen["part.1.gate_proj"], expected)
    assert torch.equal(seen["part.1.down_proj"], expected)


def test_experts_that_two_modules_share_stay_shared():
    model = holding(_qwen())
    model.twin = _qwen()
    model.twin.config._experts_implementation = "eager"
    model.twin.gate_up_proj, model.twin.down_proj = model.part.gate_up_proj, model.part.down_proj
    split(model)
    assert model.get_submodule("twin.0.gate_proj").weight is model.get_submodule("part.0.gate_proj").weight
    join(model)
    assert model.twin.gate_up_proj is model.part.gate_up_proj
    torch.testing.assert_close(model.twin(*routed()), model.part(*routed()))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("average", [True, False])
def test_packed_attention_computes_the_same(batch_first, average):
    model = holding(nn.MultiheadAttention(HIDDEN, 4, batch_first=batch_first))
    query, key = torch.randn(2, 5, HIDDEN), torch.randn(2, 7, HIDDEN)
    if not batch_first:
        query, key = query.transpose(0, 1), key.transpose(0, 1)
    padding = torch.arange(7).expand(2, 7) >= torch.tensor([[7], [4]])
    masks = (None, torch.rand(5, 7) < 0.2, torch.randn(2 * 4, 5, 7))
    for mask in masks:
        padded = padding if mask is None or mask.dtype == torch.bool else padding.float() * -1e9
        given = {"key_padding_mask": padded, "attn_mask": mask, "average_attn_weights": average}
        expected = model.part(query, key, key, **given)
        with splitted(model):
            found = model.part(query, key, key, **given)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_transposed_linear_is_a_linear():
    model = holding(Conv1D(INNER, HIDDEN))
    x = torch.randn(2, 3, HIDDEN)
    expected = model.part(x)
    with splitted(model):
        assert list(parts(model)) == ["part.linear"]
        assert model.part.linear.weight.shape == (INNER, HIDDEN)
        torch.testing.assert_close(model.part(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["in place", "in other memory"])
def test_a_transposed_linears_weight_is_stored_as_it_was(elsewhere):
    """Merged, it lies in memory as any linear's does."""
    model = holding(Conv1D(INNER, HIDDEN))
    x = torch.randn(2, 3, HIDDEN)
    with torch.no_grad(), splitted(model):
        weight = model.part.linear.weight
        if elsewhere:
            weight.data = (weight * 2).contiguous()
        else:
            weight.mul_(2)
        expected = model.part(x)
    assert model.part.weight.shape == (HIDDEN, INNER)
    torch.testing.assert_close(model.part(x), expected, rtol=1e-5, atol=1e-6)


def test_what_is_fused_in_a_way_that_is_not_known_is_left_alone():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate_up_proj = nn.Parameter(torch.zeros(2, 4, 6))
            self.down_proj = nn.Parameter(torch.zeros(2, 5, 7))

        def forward(self, hidden_states):
            return hidden_states

    model = holding(Odd())
    assert split(model) == []
