"""Checkpoints on disk: plain Hugging Face folders, with a manifest and packed masks beside the weights.

The one door to everything that reads or writes a model's folder. Within: `place` (what a user calls a model → its
folder or hub id), `loading` (→ the model), `saving` (a model → its folder), `companions` (what lies beside its
weights), `card` (its model card), `manifest` (`ressa.json` and the masks), `stored` (tensors by name), `counting`
(zeros), `kept` (what a run cut short leaves for the next), `resume` (its finished blocks), `streaming` (weights
that stay on disk), `placing` (whether they do), `quantized` (weights that are not plain), `packed` (pruned weights
as small as they are), `writing` (a file of tensors, one by one).
"""

from typing import TYPE_CHECKING

from ressa.doors import door

if TYPE_CHECKING:
    from ressa.checkpoint.card import add_scores, recipe_yaml
    from ressa.checkpoint.counting import CountedLayer, SparsityCount, count_sparsity, measure
    from ressa.checkpoint.kept import keep_tensors, kept_tensors
    from ressa.checkpoint.loading import Vlm, empty_model, load
    from ressa.checkpoint.manifest import (
        DENSE,
        MANIFEST,
        MASKS,
        SCORES,
        LayerReport,
        Manifest,
        descent,
        read_manifest,
        read_masks,
    )
    from ressa.checkpoint.packed import Sizes, pack_folder, save_packed, unpack_folder
    from ressa.checkpoint.place import find, lasting_name
    from ressa.checkpoint.placing import place_weights
    from ressa.checkpoint.resume import FinishedBlocks
    from ressa.checkpoint.saving import check_fits, save, size_of, write_model
    from ressa.checkpoint.stored import StoredTensors, match_keys
    from ressa.checkpoint.streaming import StreamedWeights
else:
    __getattr__, __dir__ = door(
        __name__,
        card="add_scores recipe_yaml",
        counting="CountedLayer SparsityCount count_sparsity measure",
        kept="keep_tensors kept_tensors",
        loading="Vlm empty_model load",
        manifest="DENSE MANIFEST MASKS SCORES LayerReport Manifest descent read_manifest read_masks",
        packed="Sizes pack_folder save_packed unpack_folder",
        place="find lasting_name",
        placing="place_weights",
        resume="FinishedBlocks",
        saving="check_fits save size_of write_model",
        stored="StoredTensors match_keys",
        streaming="StreamedWeights",
    )

__all__ = [
    "DENSE",
    "MANIFEST",
    "MASKS",
    "SCORES",
    "CountedLayer",
    "FinishedBlocks",
    "LayerReport",
    "Manifest",
    "Sizes",
    "SparsityCount",
    "StoredTensors",
    "StreamedWeights",
    "Vlm",
    "add_scores",
    "check_fits",
    "count_sparsity",
    "descent",
    "empty_model",
    "find",
    "keep_tensors",
    "kept_tensors",
    "lasting_name",
    "load",
    "match_keys",
    "measure",
    "pack_folder",
    "place_weights",
    "read_manifest",
    "read_masks",
    "recipe_yaml",
    "save",
    "save_packed",
    "size_of",
    "unpack_folder",
    "write_model",
]
