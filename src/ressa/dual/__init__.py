"""Dual encoders: models that embed pictures and texts into one space (CLIP, SigLIP, BLIP's retrieval, ColPali, …)."""

from typing import TYPE_CHECKING

from ressa.doors import door

if TYPE_CHECKING:
    from ressa.dual.encoder import DualEncoder, Embeddings, similarity
    from ressa.dual.structure import is_dual_encoder, is_late, itm_switch
else:
    __getattr__, __dir__ = door(
        __name__,
        encoder="DualEncoder Embeddings similarity",
        structure="is_dual_encoder is_late itm_switch",
    )

__all__ = [
    "DualEncoder",
    "Embeddings",
    "is_dual_encoder",
    "is_late",
    "itm_switch",
    "similarity",
]
