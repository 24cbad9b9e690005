"""A module that stands in for one with fused parameters, made of plain linears."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ressa.fused.part import Part


@dataclass(frozen=True)
class _Whole:
    """A fused parameter while its parts stand apart: enough to give it back without a copy if none moved."""

    parameter: nn.Parameter
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int


Views = dict[tuple[int, Part], nn.Parameter]
"""The parts made so far: fused parameter's id and part → parameter."""


class Split(nn.Module):
    """Stands in for a module with fused parameters: the same function, made of plain `nn.Linear`.

    The linears' weights are views of the fused parameters, so splitting copies nothing. `join` gives the original
    module back, its parameters as the linears are by then, wherever they were moved and whatever they were cast to.
    """

    def __init__(self, original: nn.Module, views: "Views") -> None:
        super().__init__()
        object.__setattr__(self, "original", original)  # not registered: its parameters are the linears'
        self._views = views
        self.parts: dict[str, Part] = {}
        """Parameter of this module (`3.gate_proj.weight`) → its part."""
        self._wholes: dict[str, _Whole] = {}
        self.train(original.training)

    original: nn.Module

    def __getattr__(self, name: str) -> Any:
        """What the original says of itself (`num_experts`, `batch_first`), but none of its tensors and modules."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            original = self.__dict__["original"]
            if any(name in held for held in (original._parameters, original._buffers, original._modules)):
                raise
            return getattr(original, name)

    def adopt(self, *fused: str) -> None:
        """Take over what else the original has (norms, activations, buffers), under the same names."""
        for name, child in self.original.named_children():
            if name not in {each.partition(".")[0] for each in fused}:
                setattr(self, name, child)
        for name, parameter in self.original.named_parameters(recurse=False):
            if name not in fused:
                self.register_parameter(name, parameter)
        for name, buffer in self.original.named_buffers(recurse=False):
            self.register_buffer(name, buffer)

    def make(self, weight: Part, bias: Part | None = None) -> nn.Linear:
        """A linear made of parts; to be registered, then named by `named`."""
        view = self._view(weight)
        with torch.device("meta"):
            linear = nn.Linear(view.shape[1], view.shape[0], bias=bias is not None)
        linear.weight = view
        if bias is not None:
            linear.bias = self._view(bias)
        return linear.train(self.training)

    def _view(self, part: Part) -> nn.Parameter:
        """A part as a parameter of its own; the same one for modules that share the fused parameter (tied weights)."""
        whole = self.original.get_parameter(part.parameter)
        key = id(whole), replace(part, parameter="")
        if key not in self._views:
            self._views[key] = nn.Parameter(part.of(whole.detach()), requires_grad=whole.requires_grad)
        if part.parameter not in self._wholes:
            self._wholes[part.parameter] = _Whole(
                whole, whole.shape, whole.stride(), int(whole.storage_offset())
            )
        return self._views[key]

    def named(self, name: str, weight: Part, bias: Part | None = None) -> None:
        """Say where the linear called `name` beneath this module comes from."""
        self.parts[f"{name}.weight"] = weight
        if bias is not None:
            self.parts[f"{name}.bias"] = bias

    def release(self) -> None:
        """Let the linears alone hold the fused parameters' memory."""
        for whole in self._wholes.values():
            whole.parameter.data = whole.parameter.data.new_empty(0)

    @torch.no_grad()
    def join(self) -> nn.Module:
        """The original module, its fused parameters as the linears are now."""
        for name, whole in self._wholes.items():
            found = [
                (part, self.get_parameter(mine))
                for mine, part in self.parts.items()
                if part.parameter == name
            ]
            first = found[0][1]
            data = _in_place(whole, found)
            if data is None:
                data = torch.empty(whole.shape, dtype=first.dtype, device=first.device)
                for part, parameter in found:
                    part.of(data).copy_(parameter)
            whole.parameter.data = data
        for name, buffer in self.named_buffers(recurse=False):
            setattr(self.original, name, buffer)
        self.original.train(self.training)
        return self.original

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def linears(self) -> Iterator[str]:
        """Names of the linears beneath this module."""
        return (name.removesuffix(".weight") for name in self.parts if name.endswith(".weight"))


def _in_place(whole: _Whole, found: Sequence[tuple[Part, nn.Parameter]]) -> torch.Tensor | None:
    """The fused parameter's data where its parts still lie as they did when they were split off, else None."""
    first = found[0][1]
    if any(parameter.dtype != whole.parameter.dtype for _, parameter in found):
        return None
    if len({parameter.untyped_storage()._cdata for _, parameter in found}) > 1:
        return None
    data = torch.empty(0, dtype=first.dtype, device=first.device)
    try:
        data.set_(first.untyped_storage(), whole.offset, whole.shape, whole.stride)
    except RuntimeError:  # the storage is a smaller one
        return None
    views = ((part.of(data), parameter) for part, parameter in found)
    same = all(v.data_ptr() == p.data_ptr() and v.stride() == p.stride() for v, p in views)
    return data if same else None
