"""Fused weights as plain linears, and back: experts, packed attention projections, GPT-2's transposed linears.

Everything that prunes and repairs works on `nn.Linear`. Where a model keeps weights in another form, its module is
replaced for a while by one that computes the same with plain linears; their names are the layers' names
(`…mlp.experts.3.gate_proj`), as in checkpoints that store every expert apart.
"""

from typing import TYPE_CHECKING

from ressa.doors import door

if TYPE_CHECKING:
    from ressa.fused.attention import SplitAttention
    from ressa.fused.experts import ROWS, Rows, SplitExperts
    from ressa.fused.part import Part
    from ressa.fused.splitting import join, on_plain_linears, parts, split, splitted
    from ressa.fused.stand_in import Split
else:
    __getattr__, __dir__ = door(
        __name__,
        attention="SplitAttention",
        experts="ROWS Rows SplitExperts",
        part="Part",
        splitting="join on_plain_linears parts split splitted",
        stand_in="Split",
    )

__all__ = [
    "ROWS",
    "Part",
    "Rows",
    "Split",
    "SplitAttention",
    "SplitExperts",
    "join",
    "on_plain_linears",
    "parts",
    "split",
    "splitted",
]
