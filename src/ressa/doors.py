"""Packages whose names are imported when they are first used: no command pays for what it does not use.

A package's `__init__.py` is its door. Type checkers read the imports under `TYPE_CHECKING`; at run time the door
imports the module that holds a name when somebody asks for it.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def door(package: str, **modules: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package. modules: module within it → the names it holds, as one text.

    A name may not be that of a module in the package: whichever came last would win.
    """
    places = {name: module for module, names in modules.items() for name in names.split()}

    def __getattr__(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        value = getattr(import_module(f"{package}.{places[name]}"), name)
        setattr(sys.modules[package], name, value)  # found at once the next time
        return value

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[package]), *places})

    return __getattr__, __dir__
