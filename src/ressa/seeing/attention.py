"""Catching the attention of one forward, from whatever modules give their probabilities; no family is named."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ressa.anatomy import Anatomy


@dataclass(frozen=True)
class Attended:
    """What one attention module paid in one forward.

    module: its name; chain: that of the anatomy's chain of blocks it stands in. weights: (B, Q, K) float32 on the CPU,
    the mean over heads; each row sums to 1. cross: whether the keys are of other states than the queries.
    """

    module: str
    tower: str
    chain: str
    weights: Tensor
    cross: bool


@dataclass
class Captured:
    """The attentions of one forward in the order of its calls; and how many pictures a convolution cut into patches,
    each into what grid of them (rows, columns), None where none did."""

    attended: list[Attended] = field(default_factory=list)
    pictures: int | None = None
    grid: tuple[int, int] | None = None

    def of(self, tower: str) -> list[Attended]:
        return [each for each in self.attended if each.tower == tower]


@contextmanager
def capture(model: nn.Module, anatomy: Anatomy) -> Iterator[Captured]:
    """Within, the model computes attention plainly (`eager`), and each forward puts what it attended to into what is
    yielded. Modules whose outputs hold no probabilities give nothing. Afterwards all is as before.
    """
    found = Captured()
    homes = {chain.name: (tower, chain.name) for tower in anatomy.towers for chain in anatomy.chains(tower)}
    handles = []
    with _eagerly(model):
        try:
            for name, module in model.named_modules():
                home = _home(name, homes)
                if home is not None:
                    handles.append(
                        module.register_forward_hook(_Keeper(found, name, *home), with_kwargs=True)
                    )
                if isinstance(module, nn.Conv2d) and module.in_channels == 3:
                    handles.append(module.register_forward_hook(_Cutter(found)))
            yield found
        finally:
            for handle in handles:
                handle.remove()


def _home(name: str, homes: Mapping[str, tuple[str, str]]) -> tuple[str, str] | None:
    """The tower and the chain that a module lies in."""
    parts = name.split(".")
    above = (".".join(parts[:length]) for length in range(len(parts) - 1, 0, -1))
    return next((homes[each] for each in above if each in homes), None)


class _Keeper:
    """Keeps the probabilities among a module's outputs."""

    def __init__(self, found: Captured, name: str, tower: str, chain: str) -> None:
        self.found, self.name, self.tower, self.chain = found, name, tower, chain

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        if not isinstance(output, tuple):
            return
        if any(each.module.startswith(f"{self.name}.") for each in self.found.attended):
            return  # it hands on what a module within it has computed
        for value in output[1:]:
            if isinstance(value, Tensor) and _are_probabilities(value):
                mean = value.detach().float().mean(1).cpu()
                crosses = _crosses(mean, args, kwargs)
                self.found.attended.append(Attended(self.name, self.tower, self.chain, mean, crosses))
                return


def _are_probabilities(value: Tensor) -> bool:
    """Whether a tensor is (B, H, Q, K) with rows that sum to 1; rows of padding may be all zeros."""
    if value.dim() != 4 or not value.is_floating_point() or value.shape[-1] < 2 or (value < 0).any():
        return False
    sums = value.float().sum(-1)
    near = (sums - 1).abs() < 2e-2
    return bool((near | (sums == 0)).all() and near.any())


def _crosses(weights: Tensor, args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether the keys were of other states than the queries: their number differs, or the module was given some."""
    if weights.shape[1] != weights.shape[2]:
        return True
    given = [*(("states", value) for value in args), *kwargs.items()]
    states = [(name, value) for name, value in given if isinstance(value, Tensor) and value.dim() == 3]
    others = (value for name, value in states[1:] if "states" in name)
    return any(value is not states[0][1] and value.shape[1] == weights.shape[2] for value in others)


class _Cutter:
    """Notes how many patches a convolution made of each of how many pictures."""

    def __init__(self, found: Captured) -> None:
        self.found = found

    def __call__(self, module: nn.Conv2d, args: tuple, output: Tensor) -> None:
        if output.dim() == 4 and min(output.shape[2:]) > 1 and self.found.grid is None:
            self.found.pictures = output.shape[0]
            self.found.grid = (output.shape[2], output.shape[3])


@contextmanager
def _eagerly(model: Any) -> Iterator[None]:
    """The model with plain attention, which has probabilities to give."""
    configs = {
        id(config): config
        for module in model.modules()
        if (config := getattr(module, "config", None)) is not None
    }
    before = [(config, getattr(config, "_attn_implementation", None)) for config in configs.values()]
    if hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        for config, implementation in before:
            if implementation is not None:
                config._attn_implementation_internal = implementation
