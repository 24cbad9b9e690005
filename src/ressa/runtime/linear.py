"""A pruned linear layer that holds its weight packed."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ressa.errors import UsageError
from ressa.runtime import kernels
from ressa.runtime.packing import Form, PackedWeight, values_shape
from ressa.runtime.prepared import DenseWeight, PreparedWeight
from ressa.runtime.siblings import Siblings

Mode = Literal["auto", "packed", "dense"]


class PackedLinear(nn.Module):
    """y = x Wᵀ + b with W (out, in) packed; x (…, in), y (…, out).

    Its state dict holds the canonical form, `weight` (the kept values), `positions`, `shape` (of W) and `bias`,
    whatever the device computes with. mode says what that is, where a kernel of `ressa.runtime.kernels` takes the
    weight on this device, and where none does:

    | mode | with a kernel | without |
    |---|---|---|
    | auto | the kernel | the weight is unpacked once: as fast as dense, and as large |
    | packed | the kernel | it is unpacked in each call: as small as packed, and slower |
    | dense | unpacked once | unpacked once |
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    positions: Tensor | None
    siblings: Siblings | None = None
    """Those that are computed in one call with this one, in which it has a `place`."""
    place: int = 0

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        form: Form,
        kept: int,
        bias: bool = True,
        mode: Mode = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """form, kept: those of the `PackedWeight` that will be loaded; nothing is prepared before that."""
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.form: Form = form
        self.kept = kept
        self.mode: Mode = mode
        self.prepared: PreparedWeight | None = None
        self.register_buffer("positions", None)
        # Only for whoever reads the file, where spare bits hide the width; the layer knows its own shape.
        self.register_buffer("shape", torch.tensor([out_features, in_features], device="cpu"))
        self._hold(self._empty(device, dtype))
        if bias:
            empty = torch.empty(out_features, device=device, dtype=dtype)
            self.bias = nn.Parameter(empty, requires_grad=False)
        else:
            self.register_parameter("bias", None)

    @classmethod
    def of(cls, packed: PackedWeight, bias: Tensor | None = None, mode: Mode = "auto") -> "PackedLinear":
        """A layer that holds this weight, prepared."""
        rows, width = packed.shape
        with torch.device("meta"):
            layer = cls(
                width,
                rows,
                form=packed.form,
                kept=packed.values.numel(),
                bias=False,
                mode=mode,
                dtype=packed.dtype,
            )
        layer.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        layer._hold(packed)
        layer.prepare()
        return layer

    def forward(self, x: Tensor) -> Tensor:
        if self.siblings is not None and (mine := self.siblings.linear(self.place, x)) is not None:
            return mine
        if self.prepared is not None:
            return self.prepared.linear(x, self.bias)
        return F.linear(x, self.packed().dense(), self.bias)

    def packed(self) -> PackedWeight:
        """The canonical form, on the layer's device."""
        if self.prepared is not None:
            return self.prepared.packed()
        assert self.positions is not None
        return PackedWeight(
            self.weight.data, self.positions, (self.out_features, self.in_features), self.form
        )

    def dense(self) -> Tensor:
        """The weight (out, in)."""
        return self.packed().dense() if self.prepared is None else self.prepared.dense()

    def prepare(self, mode: Mode | None = None) -> None:
        """Turn the canonical form into what this device computes with; that form is then no longer held."""
        self.mode = mode or self.mode
        if self.mode not in get_args(Mode):
            raise UsageError(f"There is no mode '{self.mode}': use {', '.join(get_args(Mode))}.")
        packed = self.packed()
        prepared = None if self.mode == "dense" else kernels.prepare(packed)
        if prepared is None and self.mode != "packed":
            prepared = DenseWeight(packed)
        if prepared is None:
            self._hold(packed)
        else:
            self.prepared, self.weight, self.positions = prepared, prepared.weight, None
            if prepared.weight.is_cuda:
                torch.cuda.synchronize(
                    prepared.weight.device
                )  # kernels read weights early (`kernels.driver.OVERLAP`)
        self._tell_siblings()

    def extra_repr(self) -> str:
        held = "packed" if self.prepared is None else type(self.prepared).__name__
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"form={self.form}, kept={self.kept}, held as {held}"
        )

    def _empty(self, device: torch.device | str | None, dtype: torch.dtype | None) -> PackedWeight:
        """A canonical form of the right shapes with nothing in it yet."""
        shape = (self.out_features, self.in_features)
        values = torch.empty(values_shape(shape, self.form, self.kept), device=device, dtype=dtype)
        places = torch.empty(shape[0], -(-shape[1] // 8), dtype=torch.uint8, device=device)
        return PackedWeight(values, places, shape, self.form)

    def _hold(self, packed: PackedWeight) -> None:
        self.prepared = None
        self.weight = nn.Parameter(packed.values, requires_grad=False)
        self.positions = packed.positions
        self._tell_siblings()

    def _tell_siblings(self) -> None:
        if self.siblings is not None:
            self.siblings.stack()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PackedLinear":
        """Move or convert (`to`, `cuda`, `half`, …): what was prepared for another device is prepared anew."""
        before = self.weight.new_empty(0)
        after = fn(before)
        same = (before.device, before.dtype) == (after.device, after.dtype)
        anew = self.prepared is not None and not same and not before.is_meta and not after.is_meta
        if anew and self.prepared is not None and not self.prepared.portable:
            self._hold(self.packed())
        super()._apply(fn, recurse)
        if anew:
            self.prepare()
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        packed = self.packed()
        destination[f"{prefix}weight"] = packed.values
        destination[f"{prefix}positions"] = packed.positions
        destination[f"{prefix}shape"] = torch.tensor(packed.shape)
        if self.bias is not None:
            destination[f"{prefix}bias"] = self.bias if keep_vars else self.bias.detach()

    def _load_from_state_dict(self, *arguments: Any) -> None:
        prepared = self.prepared is not None
        if prepared:
            self._hold(self._empty(self.weight.device, self.weight.dtype))
        super()._load_from_state_dict(*arguments)
        if prepared:
            self.prepare()


def weight_of(linear: Any) -> Tensor:
    """The weight (out, in) of a plain or a packed linear layer."""
    return linear.dense() if isinstance(linear, PackedLinear) else linear.weight
