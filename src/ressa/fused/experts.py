"""Mixtures of experts whose weights are fused over the experts, as one small network of plain linears an expert.

transformers keeps an expert's gate and up projection in one parameter (experts, 2·intermediate, hidden) and its down
projection in another, some of them transposed, some interleaved, some with biases. How is read off the attributes that
its `use_experts_implementation` leaves, else off the shapes; what calls them off the names of `forward`'s parameters.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ressa.fused.part import Part
from ressa.fused.stand_in import Split, Views

ROWS = "token_rows"
"""Attribute of what an expert's linear is given: its `Rows`."""


class Rows(NamedTuple):
    """Which rows of their layer's flattened input an expert is given: int64 (rows,), of so many in all."""

    numbers: Tensor
    total: int


@dataclass(frozen=True)
class Layout:
    """How a module keeps its experts. names: of gate_up_proj, gate_proj, up_proj and down_proj those it has."""

    experts: int
    names: tuple[str, ...]
    transposed: bool
    interleaved: bool
    biased: bool


def layout_of(module: nn.Module) -> Layout | None:
    """None for a module that keeps no experts, or in a way that is not known."""
    own = dict(module.named_parameters(recurse=False))
    fused = {name: p for name, p in own.items() if p.dim() == 3}
    ways = ({"gate_up_proj"}, {"gate_proj", "up_proj"}, {"up_proj"})
    if "down_proj" not in fused or set(fused) - {"down_proj"} not in ways:
        return None
    if _calling(module) is None or len({len(parameter) for parameter in fused.values()}) > 1:
        return None
    up = fused.get("gate_up_proj", fused.get("up_proj"))
    assert up is not None
    down = fused["down_proj"]
    halves = 2 if "gate_up_proj" in fused else 1
    plain = up.shape[1] == halves * down.shape[2] and up.shape[2] == down.shape[1]
    turned = up.shape[2] == halves * down.shape[1] and up.shape[1] == down.shape[2]
    transposed = getattr(module, "is_transposed", turned and not plain)
    if not (turned if transposed else plain):
        return None
    names = tuple(name for name in ("gate_up_proj", "gate_proj", "up_proj", "down_proj") if name in fused)
    biased = all(f"{name}_bias" in own for name in names)
    return Layout(len(down), names, transposed, not getattr(module, "is_concatenated", True), biased)


def _calling(module: nn.Module) -> str | None:
    """How the module's forward is called: with routed, sorted or shared tokens."""
    match tuple(inspect.signature(module.forward).parameters):
        case ("hidden_states", index, weights) if "ind" in index and "weights" in weights:
            return "routed"
        case ("hidden_states",):
            return "sorted"
        case ("hidden_states", "gammas"):
            return "shared"
    return None


class SplitExperts(Split):
    """Experts as modules `0`, `1`, … with `gate_proj`, `up_proj` and `down_proj`."""

    def __init__(self, original: nn.Module, views: Views, layout: Layout) -> None:
        super().__init__(original, views)
        fused = [*layout.names, *(f"{name}_bias" for name in layout.names if layout.biased)]
        self.adopt(*fused)
        self.interleaved = layout.interleaved
        ways: dict[str | None, Callable[..., Tensor]]
        ways = {"routed": self._routed, "sorted": self._sorted, "shared": self._shared}
        self.way = ways[_calling(original)]
        self.count = layout.experts
        for number in range(layout.experts):
            expert = nn.Module()
            self.add_module(str(number), expert)
            for name, weight in _parts(original, layout, number).items():
                bias = None
                if layout.biased:
                    bias = Part(f"{weight.parameter}_bias", number, weight.rows)
                expert.add_module(name, self.make(weight, bias))
                self.named(f"{number}.{name}", weight, bias)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.way(*args, **kwargs)

    def _routed(self, hidden_states: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        """hidden_states (tokens, hidden), index and weights of the experts chosen (tokens, k) → (tokens, hidden)."""
        total = torch.zeros_like(hidden_states)
        for number in range(self.count):
            rows, place = (index == number).nonzero(as_tuple=True)
            if len(rows):
                given = self._run(number, hidden_states[rows], Rows(rows, len(total)))
                given = given * weights[rows, place, None]
                total.index_add_(0, rows, given.to(total.dtype))
        return total

    def _sorted(self, hidden_states: Tensor) -> Tensor:
        """hidden_states (experts · tokens, hidden): every token for each expert, 0 if not its own (Llama 4)."""
        total = torch.zeros_like(hidden_states)
        shares = hidden_states.view(self.count, -1, hidden_states.shape[-1])
        for number, share in enumerate(shares):
            rows = share.any(-1).nonzero().squeeze(1)
            if len(rows):
                total.view_as(shares)[number, rows] = self._run(number, share[rows], Rows(rows, len(share)))
        return total

    def _shared(self, hidden_states: Tensor, gammas: Tensor) -> Tensor:
        """Every token goes through every expert, weighted by gammas (tokens, experts) before the down projection."""
        tokens = hidden_states.reshape(-1, hidden_states.shape[-1])
        rows = Rows(torch.arange(len(tokens), device=tokens.device), len(tokens))
        weights = gammas.reshape(len(tokens), self.count)
        given = [self._run(n, tokens, rows, weights[:, n : n + 1]).float() for n in range(self.count)]
        return torch.stack(given).sum(0).to(hidden_states.dtype).view_as(hidden_states)

    def _run(self, number: int, x: Tensor, rows: Rows, weights: Tensor | None = None) -> Tensor:
        """One expert on its tokens; every linear's input says which rows it holds."""
        expert: Any = self.get_submodule(str(number))
        setattr(x, ROWS, rows)
        ups = [getattr(expert, name)(x) for name in ("gate_proj", "up_proj") if hasattr(expert, name)]
        inner = self._activate(ups)
        if weights is not None:
            inner = inner * weights
        setattr(inner, ROWS, rows)
        given = expert.down_proj(inner)
        norm = getattr(self, "post_expert_norm", None)
        return given if norm is None else norm(given)

    def _activate(self, ups: list[Tensor]) -> Tensor:
        """What the original makes of its projections."""
        original: Any = self.original
        if len(ups) == 1:
            return original.act_fn(ups[0])
        if not hasattr(original, "_apply_gate"):
            return original.act_fn(ups[0]) * ups[1]
        together = torch.stack(ups, -1).flatten(-2) if self.interleaved else torch.cat(ups, -1)
        return original._apply_gate(together)


def _parts(module: nn.Module, layout: Layout, number: int) -> dict[str, Part]:
    """An expert's linears, by name, and where their weights lie."""
    found: dict[str, Part] = {}
    for name in layout.names:
        shape = module.get_parameter(name).shape
        out = shape[2 if layout.transposed else 1]
        if name != "gate_up_proj":
            found[name] = Part(name, number, None, layout.transposed)
        elif layout.interleaved:
            found["gate_proj"] = Part(name, number, (0, out, 2), layout.transposed)
            found["up_proj"] = Part(name, number, (1, out, 2), layout.transposed)
        else:
            found["gate_proj"] = Part(name, number, (0, out // 2, 1), layout.transposed)
            found["up_proj"] = Part(name, number, (out // 2, out, 1), layout.transposed)
    return found
