"""How transformers reads and writes packed folders: its extension points for quantised checkpoints.

`import ressa` sees to it that this module is imported as soon as transformers' own quantizers are (`registration`).
"""

import re
from typing import Any

import torch
from torch import nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from ressa.errors import UsageError
from ressa.runtime.format import MARKER, METHOD, VERSION
from ressa.runtime.linear import Mode, PackedLinear
from ressa.runtime.model import check_all, prepare_all, unpack_layers


@register_quantization_config(METHOD)
class PackedConfig(QuantizationConfigMixin):
    """`quantization_config` of a packed folder's config.json.

    layers: module name → "2:4", or for a bitmask the number of kept weights. mode: how it is to be computed with
    (`PackedLinear`); a matter of this machine, so it is not saved.
    """

    def __init__(
        self,
        layers: dict[str, str | int] | None = None,
        version: int = VERSION,
        mode: Mode = "auto",
        **_: Any,
    ) -> None:
        if version != VERSION:
            raise UsageError(
                f"The folder is packed in version {version} of the format, and this ressa reads version {VERSION}: "
                "install the ressa that it was packed with, or a newer one."
            )
        self.quant_method = METHOD  # type: ignore[assignment]  # transformers names only its own
        self.version = version
        self.layers = layers or {}
        self.mode: Mode = mode

    def to_dict(self) -> dict[str, Any]:
        return {"quant_method": METHOD, "version": self.version, "layers": dict(self.layers)}


@register_quantizer(METHOD)
class PackedQuantizer(HfQuantizer):
    """Puts a `PackedLinear` in the place of each packed layer before the weights are loaded."""

    quantization_config: PackedConfig

    def _process_model_before_weight_loading(self, model: Any, **_: Any) -> Any:
        self._dtypes = _dtypes_to_be(model)
        for listed, packed in self.quantization_config.layers.items():
            name = _find(model, listed)
            if name is None:  # a part of the model is loaded alone
                continue
            linear = model.get_submodule(name)
            if type(linear) is not nn.Linear:
                raise UsageError(
                    f"config.json says that {listed} is packed, but it is no linear layer of a "
                    f"{type(model).__name__}: make config.json and weights agree."
                )
            layer = PackedLinear(
                linear.in_features,
                linear.out_features,
                form="2:4" if packed == "2:4" else "bitmask",
                kept=linear.weight.numel() // 2 if packed == "2:4" else int(packed),
                bias=linear.bias is not None,
                mode=self.quantization_config.mode,
                device=linear.weight.device,
                dtype=linear.weight.dtype,
            )
            model.set_submodule(name, layer)
        ignored = set(model._keys_to_ignore_on_load_unexpected or ())
        model._keys_to_ignore_on_load_unexpected = ignored | {f"^{re.escape(MARKER)}$"}
        return model

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        # Up to 5.22 transformers leaves a quantised model's tensors in the dtype of the file where it renames keys.
        for name, parameter in model.named_parameters():
            if parameter.dtype != self._dtypes.get(name, parameter.dtype):
                parameter.data = parameter.data.to(self._dtypes[name])
        check_all(model)
        prepare_all(model)
        return model

    def get_state_dict_and_metadata(self, model: Any) -> tuple[dict[str, Any], dict[str, str]]:
        return {**model.state_dict(), MARKER: torch.empty(0, dtype=torch.uint8)}, {}

    def _dequantize(self, model: Any, dtype: torch.dtype | None = None) -> Any:
        unpack_layers(model)
        return model

    def is_serializable(self, **_: Any) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False

    @property
    def is_compileable(self) -> bool:
        return True


def _dtypes_to_be(model: Any) -> dict[str, torch.dtype]:
    """Parameter → the dtype that it is to be loaded in, of those that have the dtype of a model not yet loaded."""
    dtype = model.dtype
    plan = {glob.replace("*", ".*"): kept for glob, kept in model._get_dtype_plan(dtype).items()}
    return {
        name: next((kept for pattern, kept in plan.items() if re.search(pattern, name)), dtype)
        for name, parameter in model.named_parameters()
        if parameter.dtype == dtype
    }


def _find(model: Any, listed: str) -> str | None:
    """The name of a listed layer in this model: with or without the prefix that the base model has in another."""
    prefix = f"{model.base_model_prefix}."
    modules = dict(model.named_modules())
    candidates = (listed, f"{prefix}{listed}", listed.removeprefix(prefix))
    return next((name for name in candidates if name in modules), None)
