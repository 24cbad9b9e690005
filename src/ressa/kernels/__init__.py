"""Kernels, each beside the plain torch function that says what it computes."""

from ressa.kernels.sparse_lora import (
    effective_weight,
    masked,
    masked_gradients,
    masked_linear,
    masked_reduction,
    sparse_lora_linear,
)

__all__ = [
    "effective_weight",
    "masked",
    "masked_gradients",
    "masked_linear",
    "masked_reduction",
    "sparse_lora_linear",
]
