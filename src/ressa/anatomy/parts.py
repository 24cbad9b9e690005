"""What a VLM is made of, for those who prune it: towers, their chains, their blocks, the linears in those."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from ressa.errors import UsageError

TOWERS = ("vision", "connector", "language")


@dataclass(frozen=True)
class Block:
    """One module that runs as a whole: its dotted path and the full dotted names of its prunable linears."""

    name: str
    linears: tuple[str, ...]


@dataclass(frozen=True)
class Chain:
    """Blocks that run one after another (a T5 language tower has two chains: encoder and decoder).

    reads_labels: the chain's positions are those of the labels (the decoder of an encoder-decoder model), so
    positions without a label are padding.
    """

    name: str
    blocks: tuple[Block, ...]
    reads_labels: bool = False


@dataclass(frozen=True)
class Tower:
    """One of the three parts of a VLM, with its chains in the order they are registered.

    prunable: weights in its linears. weights: all matrices and kernels in its blocks.
    """

    name: str
    chains: tuple[Chain, ...]
    prunable: int = 0
    weights: int = 0

    @property
    def share(self) -> float:
        """The share of its weights that can be pruned."""
        return self.prunable / self.weights if self.weights else 0.0


@dataclass(frozen=True)
class Anatomy:
    """The towers that exist, by name, in the order of `TOWERS`.

    outside: modules with linears that lie in no tower, since no picture passes through them on its way to the language
    model (audio and video towers, poolers, image generators), or they work on raw patches: they stay dense.
    """

    towers: dict[str, Tower]
    outside: tuple[str, ...] = field(default=())

    def chains(self, tower: str | None = None) -> Iterator[Chain]:
        """Every chain, of one tower or of all, vision first."""
        for name, found in self.towers.items():
            if tower in (None, name):
                yield from found.chains

    def blocks(self, tower: str | None = None) -> list[Block]:
        """Every block, of one tower or of all, vision first."""
        return [block for chain in self.chains(tower) for block in chain.blocks]

    def linears(self, tower: str | None = None) -> list[str]:
        """Full dotted names of the prunable linears, of one tower or of all, vision first."""
        return [name for block in self.blocks(tower) for name in block.linears]

    def prunable(self) -> dict[str, float]:
        """Tower → the share of its blocks' weights that can be pruned."""
        return {name: round(tower.share, 4) for name, tower in self.towers.items()}

    @cached_property
    def _homes(self) -> dict[str, str]:
        """Layer → tower: asked for once a layer, of which experts make many thousands."""
        return {layer: tower for tower in self.towers for layer in self.linears(tower)}

    def tower_of(self, layer: str) -> str:
        """The tower a linear belongs to. Raises UsageError if it is in none."""
        if layer in self._homes:
            return self._homes[layer]
        raise UsageError(
            f"'{layer}' is not a prunable layer of this model: see `ressa inspect` for those it has."
        )
