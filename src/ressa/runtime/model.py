"""The packed layers of a whole model: put in, prepared, taken out again."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from ressa.runtime.linear import Mode, PackedLinear
from ressa.runtime.packing import pack
from ressa.runtime.prepared import PreparedWeight
from ressa.runtime.siblings import NAMES, Siblings


def packed_layers(model: nn.Module) -> dict[str, PackedLinear]:
    """Name → layer of the packed linears of a model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, PackedLinear)}


def pack_layers(model: nn.Module, masks: Mapping[str, Tensor], mode: Mode = "auto") -> None:
    """Put a packed layer in the place of each masked linear, in memory. masks: layer name → bool (out, in).

    Raises RunError if a weight is not zero where its mask says so.
    """
    for name in masks:
        linear: Any = model.get_submodule(name)
        packed = pack(linear.weight, masks[name].to(linear.weight.device))
        model.set_submodule(name, PackedLinear.of(packed, linear.bias, mode).train(linear.training))
    find_siblings(model)


def check_all(model: nn.Module) -> None:
    """Raises RunError for a packed layer, not yet prepared, whose parts do not belong together."""
    _for_each(model, lambda name, layer: layer.packed().check(name))


def prepare_all(model: nn.Module, mode: Mode | None = None) -> None:
    """Prepare every packed layer for the device it is on; mode: another one than the layers have."""
    _for_each(model, lambda _, layer: layer.prepare(mode))
    find_siblings(model)


def find_siblings(model: nn.Module) -> None:
    """Have packed layers that read the same input computed in one call, where kernels do that."""
    for module in model.modules():
        children = dict(module.named_children())
        for names in NAMES:
            there = [children[name] for name in names if name in children]
            found = [layer for layer in there if isinstance(layer, PackedLinear)]
            if len(found) > 1 and len({layer.in_features for layer in found}) == 1:
                siblings = found[0].siblings
                if siblings is None or siblings.layers != tuple(found):
                    siblings = Siblings(found)
                if siblings.stacked is None:
                    siblings.stack()


def weights_in_calls(model: nn.Module) -> list[PreparedWeight]:
    """The prepared weights of a model as they are computed with: those of siblings once, stacked."""
    found: dict[int, PreparedWeight] = {}
    for layer in packed_layers(model).values():
        stacked = None if layer.siblings is None else layer.siblings.stacked
        weight = layer.prepared if stacked is None else stacked
        if weight is not None:
            found[id(weight)] = weight
    return list(found.values())


def _for_each(model: nn.Module, do: Callable[[str, PackedLinear], None]) -> None:
    """Several layers at a time; those without weights are left out, as these come with each call (offloading)."""
    layers = {name: layer for name, layer in packed_layers(model).items() if not layer.weight.is_meta}
    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
        list(pool.map(do, layers.keys(), layers.values()))


def unpack_layers(model: nn.Module) -> None:
    """Put a plain nn.Linear, bit for bit, in the place of every packed layer."""
    for name, layer in packed_layers(model).items():
        with torch.device("meta"):
            linear = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
        linear.weight = nn.Parameter(layer.dense().detach())
        if layer.bias is not None:
            linear.bias = nn.Parameter(layer.bias.detach())
        model.set_submodule(name, linear.train(layer.training))


def unpack_model(model: Any) -> None:
    """Make a plain model of one that is packed, in place and bit for bit; any other stays as it is."""
    if not packed_layers(model):
        return
    if getattr(model, "hf_quantizer", None) is not None:  # its config says so, too
        model.dequantize()
    else:
        unpack_layers(model)
