"""One linear with SparseLoRA adapters: what it computes, and how they merge without moving a zero."""

from typing import Any, cast

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn
from torch.nn import functional as F

from ressa.errors import RunError, UsageError
from ressa.kernels.sparse_lora import sparse_lora_linear
from ressa.repairing.masked_linear import masked_weight
from ressa.sparsity.mask import unpack_mask


class SparseLoraLinear(LoraLinear):
    """y = x (W⊙M + Σ (α/r)(BA)⊙M)ᵀ + bias over the active adapters; a plain LoRA linear where it has no mask.

    W may be stored pruned or dense: the mask applies to it in every forward pass, so that one copy of the
    dense weights serves the pruned student and, with `bypass_mask`, the dense teacher.
    All adapters of a layer share its mask. With adapters disabled the layer is y = x (W⊙M)ᵀ + bias.
    """

    bypass_mask: bool = False  # True: y = x Wᵀ + bias, without mask and adapters
    _pruned_values: Tensor | None = None  # what merging overwrote with zeros, for unmerge

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: Any, **kwargs: Any) -> None:
        name = kwargs.get("target_name", "")
        if kwargs.get("parameter_name") is not None:
            raise UsageError(f"SparseLoRA adapts whole linear layers: leave {name} out of target_parameters.")
        _check_base(base_layer, name)
        super().__init__(base_layer, adapter_name, config, **kwargs)

    @property
    def lora_variants(self) -> dict[tuple[str, ...], Any]:
        # The masked update is this class itself, so PEFT's machinery runs as for a vanilla LoRA.
        return {("masked_modules",): None}

    def update_layer(self, adapter_name: str, r: int, lora_alpha: int, config: Any, **kwargs: Any) -> None:
        if "lora_mask" not in self._modules:
            self.lora_mask = BufferDict(persistent=True)  # adapter → uint8 (out, ceil(in / 8))
            self.missing_masks: set[str] = set()  # adapters whose mask a folder is still to bring
        name = kwargs.get("target_name", "")
        if getattr(config, "masked_modules", None) is None:
            raise UsageError(
                f"{name} is pruned and holds SparseLoRA adapters: add adapters with SparseLoraConfig, not "
                f"{type(config).__name__}, whose update would make it dense."
            )
        mask, missing = self._choose_mask(name, config)
        super().update_layer(adapter_name, r, lora_alpha, config, **kwargs)
        if mask is not None:
            self.lora_mask[adapter_name] = mask
            if missing:
                self.missing_masks.add(adapter_name)

    def _choose_mask(self, name: str, config: Any) -> tuple[Tensor | None, bool]:
        """The packed mask for a new adapter, and whether its content is still to be loaded."""
        masked = name in config.masked_modules
        if not masked and name not in config.unmasked_modules:
            raise UsageError(
                f"{name} is targeted but has no mask: pass its mask, or list it in unmasked_modules if it is "
                "dense."
            )
        if len(self.lora_A) and masked != (self.packed_mask is not None):
            raise UsageError(f"The adapters of {name} disagree on whether it is pruned: use the same masks.")
        if not masked:
            return None, False
        rows, columns = self._weight.shape
        given, held = config.packed_mask(name), self.packed_mask
        if given is None:
            if held is not None:
                return held, False
            return torch.zeros(rows, -(-columns // 8), dtype=torch.uint8, device=self._weight.device), True
        if given.shape != (rows, -(-columns // 8)):
            raise UsageError(
                f"The mask of {name} does not have the shape of its weight: use this model's masks."
            )
        given = given.to(self._weight.device)
        if held is not None and not torch.equal(held, given):
            raise UsageError(f"The adapters of {name} have different masks: use the same masks.")
        return given, False

    @property
    def packed_mask(self) -> Tensor | None:
        """uint8 (out, ceil(in / 8)), or None for a dense layer."""
        for adapter, packed in self.lora_mask.items():
            if adapter not in self.missing_masks:
                return packed
        return next(iter(self.lora_mask.values()), None)

    def mask(self) -> Tensor:
        """bool (out, in), True = kept."""
        return unpack_mask(cast(Tensor, self.packed_mask), self._weight.shape[1])

    @property
    def _weight(self) -> nn.Parameter:
        return cast(nn.Parameter, self.get_base_layer().weight)

    # -- computing ----------------------------------------------------------------------------------------

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.packed_mask is None:
            return super().forward(x, *args, **kwargs)
        self._check_forward_args(x, *args, **kwargs)
        if self.missing_masks:
            raise RunError(
                "This SparseLoRA layer has no mask yet: load the adapter's folder before using it."
            )
        if self.bypass_mask:
            return self.base_layer(x)
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            return self._masked_linear(x, [])
        adapter_names = kwargs.get("adapter_names")
        if adapter_names is not None:
            return self._mixed_batch(x, adapter_names)
        if self.merged:
            return self.base_layer(x)
        return self._masked_linear(x, self.active_adapters)

    def _masked_linear(self, x: Tensor, adapters: list[str]) -> Tensor:
        base, packed = cast(nn.Linear, self.get_base_layer()), cast(Tensor, self.packed_mask)
        present = [adapter for adapter in adapters if adapter in self.lora_A]
        if not present:
            return F.linear(x, masked_weight(base.weight, packed), base.bias)
        a, b = (
            [cast(nn.Linear, factors[adapter]).weight for adapter in present]
            for factors in (self.lora_A, self.lora_B)
        )
        if len(present) == 1:
            return sparse_lora_linear(x, base.weight, packed, a[0], b[0], self.scaling[present[0]], base.bias)
        scaled = [factor * self.scaling[adapter] for factor, adapter in zip(b, present, strict=True)]
        # Σ s·BA is one product of the stacked factors.
        return sparse_lora_linear(
            x, base.weight, packed, torch.cat(a), torch.cat(scaled, dim=1), 1.0, base.bias
        )

    def _mixed_batch(self, x: Tensor, adapter_names: list[str]) -> Tensor:
        """Each row of the batch with the adapter named for it ("__base__": none)."""
        rows = {
            name: [i for i, other in enumerate(adapter_names) if other == name] for name in set(adapter_names)
        }
        parts = {name: self._masked_linear(x[index], [name]) for name, index in rows.items()}
        result = next(iter(parts.values())).new_empty(*x.shape[:-1], self._weight.shape[0])
        for name, index in rows.items():
            result[index] = parts[name]
        return result

    # -- merging ------------------------------------------------------------------------------------------

    def get_delta_weight(self, adapter: str) -> Tensor:
        """(α/r)(BA)⊙M, (out, in); exactly +0 wherever the mask is off."""
        delta = super().get_delta_weight(adapter)
        return delta if self.packed_mask is None else torch.where(self.mask(), delta, 0)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """W ← W⊙M + (α/r)(BA)⊙M, with zeros where M is off and nowhere else that W had none.

        The merged weight is new storage: a dense model that shares W keeps its own.
        """
        adapter_names = check_adapters_to_merge(self, adapter_names)
        if self.packed_mask is None:
            return super().merge(safe_merge, adapter_names)
        if not self.merged and any(name in self.lora_A for name in adapter_names):
            self._zero_pruned()
        weight = self._weight
        alive = weight.data != 0
        try:
            super().merge(safe_merge, adapter_names)
        finally:
            if not self.merged:
                self._restore_pruned()
        # A kept weight and its update can cancel exactly, which bfloat16 makes likely: the smallest number
        # instead of zero, so that the zeros of the merged weight are those of the mask and no others.
        weight.data[alive & (weight.data == 0)] = torch.finfo(weight.dtype).tiny

    def unmerge(self) -> None:
        super().unmerge()
        self._restore_pruned()

    def _zero_pruned(self) -> None:
        weight, mask = self._weight, self.mask()
        pruned = weight.data[~mask]
        self._pruned_values = pruned if pruned.any() else None
        weight.data = torch.where(mask, weight.data, 0)

    def _restore_pruned(self) -> None:
        if self._pruned_values is not None:
            weight = self._weight
            weight.data[~self.mask()] = self._pruned_values.to(weight.device, weight.dtype)
            self._pruned_values = None

    # -- keeping the mask with its adapters ---------------------------------------------------------------

    def delete_adapter(self, adapter_name: str) -> None:
        super().delete_adapter(adapter_name)
        if adapter_name in self.lora_mask:
            del self.lora_mask[adapter_name]
            self.missing_masks.discard(adapter_name)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return self.packed_mask is None

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        for adapter in self.lora_mask:
            loaded = state_dict.get(f"{prefix}lora_mask.{adapter}")
            if loaded is None:
                continue
            for other, held in self.lora_mask.items():
                if other not in self.missing_masks and not torch.equal(held, loaded.to(held.device)):
                    raise UsageError(
                        f"The adapter's mask of {prefix.removesuffix('.')} differs from the one in use: it "
                        "was made for another pruned model."
                    )
            self.missing_masks.discard(adapter)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __repr__(self) -> str:
        return "sparse_" + super().__repr__()


def _check_base(base_layer: nn.Module, name: str) -> None:
    """Refuse a layer whose forward pass is not x Wᵀ + bias with a plain floating-point W."""
    if isinstance(base_layer, BaseTunerLayer):
        raise UsageError(
            f"{name} already holds an adapter of another kind: remove it before adding SparseLoRA."
        )
    plain_forward = type(base_layer).forward is nn.Linear.forward
    weight = getattr(base_layer, "weight", None)
    plain_weight = (
        type(weight) is nn.Parameter and type(weight.data) is Tensor and weight.data.is_floating_point()
    )
    packed = isinstance(base_layer, nn.modules.linear.NonDynamicallyQuantizableLinear)
    if not plain_forward or not plain_weight or packed:
        raise UsageError(
            f"SparseLoRA cannot adapt {name}, a {type(base_layer).__name__}: it needs a plain nn.Linear with "
            "a floating-point weight (not a quantised or fused layer)."
        )
    offload = getattr(base_layer, "_hf_hook", None)
    if getattr(offload, "offload", False):
        raise UsageError(
            f"SparseLoRA reads the weight of {name} directly: load the model without offloading."
        )
