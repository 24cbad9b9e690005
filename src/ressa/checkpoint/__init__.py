"""Checkpoints on disk: plain Hugging Face folders, with a manifest and packed masks beside the weights.

The one door to everything that reads or writes a model's folder. Within: `loading` (what a user calls a model →
the model), `saving` (a model → its folder), `companions` (what lies beside its weights), `manifest` (`ressa.json`
and the masks), `stored` (tensors by name), `counting` (zeros), `resume` (finished blocks of a run cut short).
"""

from ressa.checkpoint.counting import CountedLayer, SparsityCount, count_sparsity, measure
from ressa.checkpoint.loading import Vlm, load
from ressa.checkpoint.manifest import (
    DENSE,
    MANIFEST,
    MASKS,
    LayerReport,
    Manifest,
    read_manifest,
    read_masks,
)
from ressa.checkpoint.resume import FinishedBlocks
from ressa.checkpoint.saving import save, write_model
from ressa.checkpoint.stored import StoredTensors, match_keys

__all__ = [
    "DENSE",
    "MANIFEST",
    "MASKS",
    "CountedLayer",
    "FinishedBlocks",
    "LayerReport",
    "Manifest",
    "SparsityCount",
    "StoredTensors",
    "Vlm",
    "count_sparsity",
    "load",
    "match_keys",
    "measure",
    "read_manifest",
    "read_masks",
    "save",
    "write_model",
]
