"""Pruning methods by name, one file each."""

from typing import TYPE_CHECKING

from ressa.doors import door

if TYPE_CHECKING:
    from ressa.methods.registry import METHODS, Method, get_method
else:
    __getattr__, __dir__ = door(__name__, registry="METHODS Method get_method")

__all__ = ["METHODS", "Method", "get_method"]
