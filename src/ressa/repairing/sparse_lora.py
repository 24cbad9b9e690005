"""SparseLoRA as a PEFT adapter: its configuration, and how a folder of it is loaded.

    y = x (W⊙M + (α/r)(BA)⊙M)ᵀ          (RESSA, arXiv 2404.02424, §3: SparseLoRA)

In memory the adapter is a LoRA to PEFT, so that everything PEFT does with LoRA works on it. On disk its
`peft_type` is "SPARSE_LORA": where ressa is not imported PEFT does not know that type and stops, instead of
building a LoRA without the masks, which would turn dense when merged.
"""

from collections.abc import Iterable, Mapping
from dataclasses import InitVar, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import Tensor, nn

from ressa.errors import UsageError
from ressa.repairing.sparse_lora_layer import SparseLoraLinear
from ressa.sparsity.mask import pack_mask

PEFT_TYPE = "SPARSE_LORA"

# Initialisations that leave the base weight as it is; the others (PiSSA, OLoRA, LoftQ, ...) write into it.
_INITS = (True, False, "gaussian", "orthogonal")
# Fields of LoraConfig that would change what a layer computes without knowing of the mask.
_REFUSED = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "lora_bias": "a LoRA bias",
    "fan_in_fan_out": "fan_in_fan_out (Conv1D layers)",
    "target_parameters": "target_parameters (such as fused expert weights)",
    "layer_replication": "layer_replication",
    "megatron_config": "Megatron layers",
}


@dataclass
class SparseLoraConfig(LoraConfig):
    """A LoraConfig whose update is masked in every forward pass.

    Args:
        masks: layer name → bool (out, in), True = kept; names as in `model.named_modules()`. Only to build a
            new adapter: a folder holds the masks itself. Not saved with the configuration.
        masked_modules: the names of the layers that have a mask (filled in from `masks`).
        unmasked_modules: targeted linears that are dense and get a plain LoRA. A targeted linear in neither
            list is an error, so that a misspelt name never leaves a pruned layer without its mask.

    Raises UsageError for options of LoraConfig that have no meaning under a mask.
    """

    masked_modules: list[str] | None = field(
        default=None,
        # The tag makes PEFT's own layers (embeddings, convolutions, fused parameters) refuse this
        # configuration instead of building an adapter without a mask.
        metadata={"help": "Names of the layers whose update is masked.", "is_lora_variant": True},
    )
    unmasked_modules: list[str] | None = field(
        default=None, metadata={"help": "Names of targeted dense layers that get a plain LoRA."}
    )
    masks: InitVar[Mapping[str, Tensor] | None] = None

    def __post_init__(self, masks: Mapping[str, Tensor] | None) -> None:  # type: ignore[override]
        super().__post_init__()
        self._packed: dict[str, Tensor] = {}
        if masks is not None:
            self._packed = {name: pack_mask(mask) for name, mask in masks.items()}
            self.masked_modules = sorted(masks)
        if not self.masked_modules:
            raise UsageError(
                "SparseLoRA needs the masks of the pruned layers: pass masks={layer name: mask}."
            )
        self.unmasked_modules = sorted(self.unmasked_modules or [])
        self._check_options()
        self._register_custom_module({nn.Linear: SparseLoraLinear})

    def _check_options(self) -> None:
        if self.lora_dropout:
            raise UsageError(
                "SparseLoRA masks the weight, so no adapter input exists to drop: set lora_dropout=0."
            )
        if not any(self.init_lora_weights is known or self.init_lora_weights == known for known in _INITS):
            raise UsageError(
                f"SparseLoRA cannot start from init_lora_weights={self.init_lora_weights!r}, which changes "
                "the base weights: use True, False, 'gaussian' or 'orthogonal'."
            )
        variants = {option.name for option in fields(self) if option.metadata.get("is_lora_variant")}
        for name in sorted((variants | set(_REFUSED)) - {"masked_modules"}):
            if getattr(self, name, None):
                raise UsageError(
                    f"SparseLoRA does not support {_REFUSED.get(name, name)}: leave {name} unset."
                )

    def packed_mask(self, name: str) -> Tensor | None:
        """The packed mask of a layer, uint8 (out, ceil(in / 8)), or None where a folder will fill it in."""
        return self._packed.get(name)

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "peft_type": PEFT_TYPE}


PEFT_TYPE_TO_CONFIG_MAPPING[PEFT_TYPE] = SparseLoraConfig  # type: ignore[index]


def load_adapter(
    model: nn.Module, folder: str | Path, *, name: str = "default", trainable: bool = False
) -> PeftModel:
    """Load a saved SparseLoRA adapter, masks included, onto its base model or beside a PeftModel's adapters.

    Args:
        model: the base model (pruned, or dense: the stored masks apply either way) or a PeftModel of it.
        folder: what `PeftModel.save_pretrained` wrote.

    Raises UsageError when the folder holds no adapter or not all the masks of the layers it adapts.
    """
    folder = Path(folder)
    if not (folder / "adapter_config.json").is_file():
        raise UsageError(f"{folder} holds no adapter_config.json: give the folder of a saved adapter.")
    if isinstance(model, PeftModel):
        model.load_adapter(str(folder), name, is_trainable=trainable)
    else:
        model = PeftModel.from_pretrained(model, str(folder), adapter_name=name, is_trainable=trainable)
    missing = [layer for layer, module in sparse_layers(model) if module.missing_masks]
    if missing:
        raise UsageError(
            f"{folder} lacks the mask of {missing[0]}: save the adapter again with save_pretrained."
        )
    return model


def sparse_layers(model: nn.Module) -> Iterable[tuple[str, SparseLoraLinear]]:
    """Every SparseLoRA layer that has a mask, with its name."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, SparseLoraLinear) and module.packed_mask is not None
    ]


def adapter_masks(model: nn.Module) -> dict[str, Tensor]:
    """The masks that the SparseLoRA layers of a model hold: layer name → bool (out, in)."""
    prefix = "base_model.model." if isinstance(model, PeftModel) else ""
    with torch.no_grad():
        return {name.removeprefix(prefix): layer.mask().cpu() for name, layer in sparse_layers(model)}
