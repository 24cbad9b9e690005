"""Repair: a pruned model learns back what pruning broke, with every zero left in its place."""

from typing import TYPE_CHECKING

from ressa.doors import door

if TYPE_CHECKING:
    from ressa.repairing.cached import CachedLogits, cache_logits
    from ressa.repairing.config import RepairConfig
    from ressa.repairing.pipeline import RepairResult, repair
    from ressa.repairing.reconstruction import reconstruct
    from ressa.repairing.sparse_lora import SparseLoraConfig, adapter_masks, load_adapter
    from ressa.repairing.teacher import dense_teacher
else:
    __getattr__, __dir__ = door(
        __name__,
        cached="CachedLogits cache_logits",
        config="RepairConfig",
        pipeline="RepairResult repair",
        reconstruction="reconstruct",
        sparse_lora="SparseLoraConfig adapter_masks load_adapter",
        teacher="dense_teacher",
    )

__all__ = [
    "CachedLogits",
    "RepairConfig",
    "RepairResult",
    "SparseLoraConfig",
    "adapter_masks",
    "cache_logits",
    "dense_teacher",
    "load_adapter",
    "reconstruct",
    "repair",
]
