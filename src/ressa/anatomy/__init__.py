"""Which towers a vision-language model has, their ordered blocks, and each block's prunable linears."""

from typing import TYPE_CHECKING

from ressa.doors import door

if TYPE_CHECKING:
    from ressa.anatomy.find import find_anatomy
    from ressa.anatomy.parts import TOWERS, Anatomy, Block, Chain, Tower
else:
    __getattr__, __dir__ = door(__name__, find="find_anatomy", parts="TOWERS Anatomy Block Chain Tower")

__all__ = ["TOWERS", "Anatomy", "Block", "Chain", "Tower", "find_anatomy"]
