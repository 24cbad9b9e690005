"""SparseLoRA on stock PEFT: it computes the formula, never moves a zero, and is never silently dense."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from families import FAMILIES
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch.nn import functional as F

from ressa.errors import RunError, UsageError
from ressa.repairing.sparse_lora import SparseLoraConfig, adapter_masks, load_adapter, sparse_layers


class Net(nn.Module):
    """Three linears: two to prune and one that stays dense. Widths that are no multiple of 8."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.first = nn.Linear(20, 12, dtype=dtype)
        self.middle = nn.Linear(12, 20, bias=False, dtype=dtype)
        self.last = nn.Linear(20, 6, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.middle(torch.tanh(self.first(x)))))


PRUNED = ("first", "middle")


def make(dtype: torch.dtype = torch.float32, *, dense_weights: bool = False) -> tuple[Net, dict]:
    torch.manual_seed(0)
    net = Net(dtype)
    masks = {name: torch.rand(net.get_submodule(name).weight.shape) < 0.5 for name in PRUNED}
    if not dense_weights:
        for name, mask in masks.items():
            net.get_submodule(name).weight.data *= mask
    return net, masks


def config(masks: dict, **options) -> SparseLoraConfig:
    options = {"target_modules": ["first", "middle", "last"], "unmasked_modules": ["last"], "r": 3} | options
    return SparseLoraConfig(masks=masks, **options)


def adapted(net: Net, masks: dict, adapter: str = "default", **options) -> PeftModel:
    """`net` with a SparseLoRA adapter whose update is not zero."""
    return randomise(get_peft_model(net, config(masks, **options), adapter_name=adapter), adapter)


def randomise(model: nn.Module, adapter: str = "default", seed: int = 1) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if f"lora_B.{adapter}." in name:
            parameter.data = torch.randn(parameter.shape, generator=generator).to(parameter.dtype) * 0.3
    return model


def reference(model: PeftModel, masks: dict, x: torch.Tensor, adapters=("default",)) -> torch.Tensor:
    """The network by the formula, in the dtype of x."""
    hidden = x
    for name in ("first", "middle", "last"):
        layer = model.base_model.model.get_submodule(name)
        weight = layer.base_layer.weight.to(x.dtype)
        for adapter in adapters:
            a, b = layer.lora_A[adapter].weight.to(x.dtype), layer.lora_B[adapter].weight.to(x.dtype)
            weight = weight + layer.scaling[adapter] * (b @ a)
        if name in masks:
            weight = weight * masks[name]
        bias = layer.base_layer.bias
        hidden = F.linear(hidden, weight, None if bias is None else bias.to(x.dtype))
        hidden = torch.tanh(hidden) if name != "last" else hidden
    return hidden


X = torch.randn(5, 20, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("dense_weights", [False, True])
def test_forward_is_the_formula(dense_weights):
    net, masks = make(dense_weights=dense_weights)
    model = adapted(net, masks, lora_alpha=16)
    torch.testing.assert_close(model(X), reference(model, masks, X))


def test_gradients_equal_those_of_the_formula():
    net, masks = make(torch.float64)
    model = adapted(net, masks).double()
    x = X.double()
    wanted = [p for p in model.parameters() if p.requires_grad]
    ours = torch.autograd.grad(model(x).square().sum(), wanted)
    theirs = torch.autograd.grad(reference(model, masks, x).square().sum(), wanted)
    for mine, exact in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-9, atol=1e-9)


def test_starts_where_the_pruned_model_is():
    net, masks = make()
    before = net(X)
    model = get_peft_model(net, config(masks))
    torch.testing.assert_close(model(X), before)
    layer = model.base_model.model.first
    assert not layer.lora_B["default"].weight.any()
    assert 0 < layer.lora_A["default"].weight.abs().max() <= 1 / 20**0.5  # Kaiming-uniform with a = √5
    assert not layer.base_layer.weight.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dense_weights", [False, True])
@pytest.mark.parametrize("safe", [False, True])
def test_merging_keeps_every_zero_and_unmerging_restores(dtype, dense_weights, safe):
    net, masks = make(dtype, dense_weights=dense_weights)
    originals = {name: net.get_submodule(name).weight.detach().clone() for name in PRUNED}
    model = adapted(net, masks)
    x = X.to(dtype)
    before = model(x)
    model.merge_adapter(safe_merge=safe)
    for name, mask in masks.items():
        weight = model.base_model.model.get_submodule(name).base_layer.weight
        assert torch.equal(weight != 0, mask)
        assert not torch.signbit(weight[~mask]).any()
    loose = {"rtol": 0.05, "atol": 0.05} if dtype is torch.bfloat16 else {}
    torch.testing.assert_close(model(x), before, **loose)
    model.unmerge_adapter()
    for name, original in originals.items():
        weight = model.base_model.model.get_submodule(name).base_layer.weight
        assert torch.equal(weight[~masks[name]], original[~masks[name]])
        torch.testing.assert_close(weight, original, **loose)


def test_merging_leaves_weights_shared_with_a_dense_model_alone():
    net, masks = make(dense_weights=True)
    dense = copy.deepcopy(net)
    for name in PRUNED:
        dense.get_submodule(name).weight.data = net.get_submodule(name).weight.data
    want = dense(X)
    adapted(net, masks).merge_and_unload()
    torch.testing.assert_close(dense(X), want)


def test_merge_and_unload_gives_plain_linears_with_the_same_output():
    net, masks = make()
    model = adapted(net, masks)
    before = model(X)
    merged = model.merge_and_unload()
    assert type(merged.first) is nn.Linear
    torch.testing.assert_close(merged(X), before)


def test_disabled_adapters_give_the_pruned_model_even_over_dense_weights():
    net, masks = make(dense_weights=True)
    pruned, _ = make()
    model = adapted(net, masks)
    with model.disable_adapter():
        torch.testing.assert_close(model(X), pruned(X))
    model.merge_adapter()
    with model.disable_adapter():
        torch.testing.assert_close(model(X), pruned(X))


def test_several_adapters_alone_together_and_per_row():
    net, masks = make()
    model = adapted(net, masks)
    model.add_adapter("other", config(masks, r=2, lora_alpha=4))
    randomise(model, "other", seed=9)
    model.set_adapter("other")
    torch.testing.assert_close(model(X), reference(model, masks, X, ("other",)))
    model.base_model.set_adapter(["default", "other"])
    both = model(X)
    torch.testing.assert_close(both, reference(model, masks, X, ("default", "other")))
    model.merge_adapter(adapter_names=["default", "other"])
    torch.testing.assert_close(model(X), both)
    model.unmerge_adapter()
    model.eval()
    rows = ["default", "other", "__base__", "other", "default"]
    mixed = model(X, adapter_names=rows)
    for i, name in enumerate(rows):
        names = () if name == "__base__" else (name,)
        torch.testing.assert_close(mixed[i : i + 1], reference(model, masks, X[i : i + 1], names))
    model.delete_adapter("default")
    model.set_adapter("other")
    torch.testing.assert_close(model(X), reference(model, masks, X, ("other",)))


def test_adapters_of_one_layer_must_agree_on_the_mask():
    net, masks = make()
    model = adapted(net, masks)
    with pytest.raises(UsageError, match="different masks"):
        model.add_adapter("other", config({name: ~mask for name, mask in masks.items()}))
    with pytest.raises(UsageError, match="SparseLoraConfig"):
        model.add_adapter("plain", LoraConfig(target_modules=["first"]))


def test_rank_and_alpha_patterns_and_rslora():
    net, masks = make()
    model = adapted(net, masks, rank_pattern={"first": 5}, alpha_pattern={"middle": 7}, use_rslora=True)
    layers = model.base_model.model
    assert layers.first.lora_A["default"].weight.shape == (5, 20)
    assert layers.middle.scaling["default"] == 7 / 3**0.5
    torch.testing.assert_close(model(X), reference(model, masks, X))


# -- on disk ------------------------------------------------------------------------------------------------


def test_a_folder_brings_its_masks_and_output_back(tmp_path):
    net, masks = make()
    model = adapted(net, masks)
    want = model(X)
    model.save_pretrained(str(tmp_path))
    for dense_weights in (False, True):  # the stored masks prune a dense base as well
        again = load_adapter(make(dense_weights=dense_weights)[0], tmp_path)
        torch.testing.assert_close(again(X), want)
        stored = adapter_masks(again)
        assert stored.keys() == masks.keys()
        assert all(torch.equal(stored[name], mask) for name, mask in masks.items())
    plain = PeftModel.from_pretrained(make()[0], str(tmp_path))  # ressa is imported: stock PEFT works too
    torch.testing.assert_close(plain(X), want)
    packed = sum(layer.packed_mask.numel() for _, layer in sparse_layers(again))
    assert packed == 12 * 3 + 20 * 2


def test_a_second_folder_beside_the_first(tmp_path):
    net, masks = make()
    model = adapted(net, masks, adapter="first_one")
    model.save_pretrained(str(tmp_path))
    model = load_adapter(model, tmp_path / "first_one", name="second_one")
    model.set_adapter("second_one")
    torch.testing.assert_close(model(X), reference(model, masks, X, ("first_one",)))
    other = adapted(make()[0], {name: ~mask for name, mask in masks.items()})
    with pytest.raises(UsageError, match="another pruned model"):
        load_adapter(other, tmp_path / "first_one", name="second_one")


def test_a_folder_without_its_masks_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    net, masks = make()
    adapted(net, masks).save_pretrained(str(tmp_path))
    file = tmp_path / "adapter_model.safetensors"
    save_file({key: value for key, value in load_file(file).items() if "lora_mask" not in key}, file)
    with pytest.raises(UsageError, match="lacks the mask"), pytest.warns(UserWarning, match="missing"):
        load_adapter(make()[0], tmp_path)
    with pytest.warns(UserWarning, match="missing adapter keys"):
        model = PeftModel.from_pretrained(make()[0], str(tmp_path))
    with pytest.raises(RunError, match="no mask yet"):
        model(X)
    with pytest.raises(UsageError, match="no adapter_config"):
        load_adapter(net, tmp_path / "nowhere")


def test_stock_peft_without_ressa_refuses_the_folder(tmp_path):
    net, masks = make()
    adapted(net, masks).save_pretrained(str(tmp_path))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "SPARSE_LORA"
    script = (
        "from torch import nn; from peft import PeftModel\n"
        "widths = {'first': (20, 12), 'middle': (12, 20), 'last': (20, 6)}\n"
        "net = nn.ModuleDict({name: nn.Linear(*width) for name, width in widths.items()})\n"
        f"PeftModel.from_pretrained(net, {str(tmp_path)!r})"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert "SPARSE_LORA" in run.stderr


# -- what it runs in ----------------------------------------------------------------------------------------


def test_compiles():
    net, masks = make()
    model = adapted(net, masks)
    trained = [p for p in model.parameters() if p.requires_grad]
    plain, compiled = model(X), torch.compile(model, backend="aot_eager")(X)
    torch.testing.assert_close(compiled, plain)
    gradients = (torch.autograd.grad(y.square().sum(), trained) for y in (compiled, plain))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_sharded_over_two_processes_it_computes_the_same():
    """FSDP2 (fully_shard): outputs, gradients and the dense teacher."""
    script = str(Path(__file__).with_name("run_sharded.py"))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(
        [sys.executable, *launcher, script], capture_output=True, text=True, env=environment, check=False
    )
    assert run.returncode == 0, run.stderr


def test_autocast_computes_in_bfloat16_and_trains_float32_factors():
    net, masks = make()
    model = adapted(net, masks)
    with torch.autocast("cpu", torch.bfloat16):
        y = model(X)
    assert y.dtype is torch.bfloat16
    torch.testing.assert_close(y.float(), reference(model, masks, X), rtol=0.1, atol=0.1)
    y.float().sum().backward()
    gradient = model.base_model.model.first.lora_B["default"].weight.grad
    assert gradient.dtype is torch.float32
    assert gradient.any()


def test_bfloat16_weights_train_float32_factors():
    net, masks = make(torch.bfloat16)
    model = adapted(net, masks)
    layer = model.base_model.model.first
    assert layer.lora_A["default"].weight.dtype is torch.float32
    y = model(X.bfloat16())
    y.float().sum().backward()
    assert y.dtype is torch.bfloat16
    assert layer.lora_A["default"].weight.grad.any()


def test_gradient_checkpointing_gives_the_same_gradients():
    family = FAMILIES["llava"]
    gradients = []
    for checkpointing in (False, True):
        model = family.model()
        names = [n for n, m in model.named_modules() if n.endswith(("q_proj", "fc1", "down_proj"))]
        masks = {name: model.get_submodule(name).weight > 0 for name in names}
        torch.manual_seed(0)
        model = get_peft_model(model, SparseLoraConfig(masks=masks, target_modules=names))
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()
        randomise(model)
        model(**family.batch()).loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


# -- what it refuses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"use_dora": True},
        {"lora_dropout": 0.1},
        {"lora_bias": True},
        {"init_lora_weights": "pissa"},
        {"target_parameters": ["first.weight"]},
        {"layer_replication": [(0, 1)]},
    ],
)
def test_options_that_ignore_masks_are_refused(options):
    _, masks = make()
    with pytest.raises(UsageError):
        config(masks, **options)


def test_a_targeted_layer_without_a_mask_is_refused():
    net, masks = make()
    with pytest.raises(UsageError, match="no mask"):
        get_peft_model(net, config({"first": masks["first"], "midle": masks["middle"]}))
    with pytest.raises(UsageError, match="needs the masks"):
        SparseLoraConfig(target_modules=["first"])


def test_a_mask_of_another_shape_is_refused():
    net, masks = make()
    with pytest.raises(UsageError, match="shape"):
        get_peft_model(net, config(masks | {"first": masks["first"][:4]}))


def test_layers_that_are_not_plain_linears_are_refused():
    class Quantised(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    net, masks = make()
    net.first = Quantised(20, 12)
    with pytest.raises(UsageError, match="floating-point weight"):
        get_peft_model(net, config(masks))
    net = make()[0]
    net.first.weight = nn.Parameter(torch.zeros(12, 20, dtype=torch.int8), requires_grad=False)
    with pytest.raises(UsageError, match="floating-point weight"):
        get_peft_model(net, config(masks))
    convolution = nn.ModuleDict({"first": nn.Conv2d(2, 2, 1)})
    with pytest.raises(ValueError, match="masked_modules"):
        get_peft_model(
            convolution, config({"first": torch.ones(2, 2, dtype=torch.bool)}, target_modules=["first"])
        )


def test_no_path_of_the_machine_is_saved(tmp_path):
    net, masks = make()
    adapted(net, masks).save_pretrained(str(tmp_path))
    assert str(Path.cwd()) not in (tmp_path / "adapter_config.json").read_text()
