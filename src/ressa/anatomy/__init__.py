"""Which towers a vision-language model has, their ordered blocks, and each block's prunable linears."""

from ressa.anatomy.find import find_anatomy
from ressa.anatomy.parts import TOWERS, Anatomy, Block, Chain, Tower

__all__ = ["TOWERS", "Anatomy", "Block", "Chain", "Tower", "find_anatomy"]
