"""Lets `from_pretrained` read packed folders once ressa is imported, without importing transformers for it.

transformers has a register of quantizers, but no place where a package can say that it brings one. So the packed
format is registered when the module that holds the register is there, or else at the moment it is imported.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

REGISTER = "transformers.quantizers.auto"
OURS = "ressa.runtime.quantizer"


def register() -> None:
    """Register the packed format with transformers now, or as soon as transformers' register is imported."""
    if hasattr(sys.modules.get(REGISTER), "register_quantizer"):
        importlib.import_module(OURS)
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds one module, by asking the others, and has the format registered once it is loaded."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != REGISTER:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Registering(spec.loader)
        return spec


class _Registering(Loader):
    """A module's own loader, and our registration after it."""

    def __init__(self, own: Any) -> None:
        self.own = own

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.own.exec_module(module)
        importlib.import_module(OURS)

    def __getattr__(self, name: str) -> Any:  # get_source, is_package, …
        return getattr(self.own, name)
