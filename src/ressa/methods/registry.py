"""Pruning methods by name. Each is one pure function in a file of its own:

    apply(weight (out, in), statistics, pattern, *, name="", seed=0, **options) -> (mask, weight)

mask: bool (out, in), True where kept, exactly the zeros that the pattern asks for. weight: a new tensor of
the given dtype with exact zeros outside the mask, computed in fp32. No model, no I/O, no global state.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ressa.calibration.statistics import Hessian, InputMoments, InputNorm, Statistics
from ressa.methods import dsnot, magnitude, random, sparsegpt, wanda
from ressa.methods.options import OPTIONS, check_options, options_of
from ressa.sparsity.pattern import Scope


@dataclass(frozen=True)
class Method:
    """A pruning method and what a caller must know to run it.

    statistics: class to gather from the layer's inputs, None for none (see also `needs`).
    updates_weights: whether kept weights change, so that a dense copy is needed to have them back. Such a method
        takes `keep_zeros` too: whether weights that are 0 already stay 0, however few the pattern asks for.
    scope: over what the method's paper compares weights when sparsity is unstructured.
    choose_statistics: where the class depends on the options; ask `needs`.
    """

    name: str
    apply: Callable[..., tuple[Tensor, Tensor]]
    statistics: type[Statistics] | None
    updates_weights: bool
    scope: Scope
    choose_statistics: Callable[[Mapping[str, Any]], type[Statistics]] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The method's own options and their defaults."""
        parameters = inspect.signature(self.apply).parameters.values()
        own = [
            p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in ("name", "seed", "keep_zeros")
        ]
        return {parameter.name: parameter.default for parameter in own}

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Raises UsageError for an option that this method does not have, or a value that it cannot be."""
        if self.name in OPTIONS:
            check_options(self.name, options)

    def needs(self, options: Mapping[str, Any]) -> type[Statistics] | None:
        """The statistics class to gather when it runs with these options."""
        return self.choose_statistics(options) if self.choose_statistics else self.statistics


METHODS: dict[str, Method] = {
    name: Method(name, apply, statistics, updates_weights, OPTIONS[name].scope, choose_statistics)
    for name, apply, statistics, updates_weights, choose_statistics in (
        ("random", random.apply, None, False, None),
        ("magnitude", magnitude.apply, None, False, None),
        ("wanda", wanda.apply, InputNorm, False, None),
        ("sparsegpt", sparsegpt.apply, Hessian, True, None),
        ("dsnot", dsnot.apply, InputMoments, False, dsnot.choose_statistics),
    )
}


def get_method(name: str) -> Method:
    """The method of this name. Raises UsageError with the known names."""
    options_of(name)
    return METHODS[name]
