"""Which towers a vision-language model has, their ordered blocks, and each block's prunable linears.

The only place that knows how model families differ. Everything is read off the structure: transformers'
`get_encoder(modality="image")` and `get_decoder()` say where the towers begin, a chain is a container of
modules that each hold linears, and what lies between the towers is the connector.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from ressa.errors import UsageError
from ressa.runtime.linear import PackedLinear

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
    """One of the three parts of a VLM, with its chains in the order they are registered."""

    name: str
    chains: tuple[Chain, ...]


@dataclass(frozen=True)
class Anatomy:
    """The towers that exist, by name, in the order of `TOWERS`."""

    towers: dict[str, Tower]

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

    def tower_of(self, layer: str) -> str:
        """The tower a linear belongs to. Raises UsageError if it is in none."""
        for tower in self.towers:
            if layer in self.linears(tower):
                return tower
        raise UsageError(
            f"'{layer}' is not a prunable layer of this model: see `ressa inspect` for those it has."
        )


def find_anatomy(model: nn.Module) -> Anatomy:
    """Find the towers of a transformers model.

    vision: the blocks beneath the image encoder. language: the blocks beneath the decoder and, where there is
    one, the text encoder. connector: every other linear that leads from one to the other (Q-Former,
    projector, resampler, patch merger). Never included: output heads, embeddings, patch embedding, norms,
    pooling heads, audio and video towers, weights that several modules share beyond the first of them.
    Raises UsageError if there is no vision tower, or nothing beside it.
    """
    kind = type(model).__name__
    vision = _image_encoder(model)
    if vision is None:
        raise UsageError(
            f"not a vision-language model: {kind} has no vision tower; "
            "give an image-text model such as LLaVA, InstructBLIP or CLIP."
        )
    tree = _Tree(model)
    vision_chains, connector = _split_vision(tree, vision)
    if not vision_chains:
        raise UsageError(
            f"the vision tower of {kind} has no block with a plain nn.Linear to prune; "
            "give a model that is not quantised and whose vision tower is a transformer."
        )
    foreign = {vision, *(_own_encoder(model, other) or vision for other in ("audio", "video"))}
    language_chains, roots = _language(tree, model, vision, foreign)
    taken = {block.name for chain in language_chains for block in chain.blocks}
    connector += [chain for chain in tree.pieces(model, foreign | roots) if chain.blocks[0].name not in taken]
    towers = {"vision": vision_chains, "connector": connector, "language": language_chains}
    if not language_chains and not any(len(chain.blocks) > 1 for chain in connector):
        raise UsageError(
            f"not a vision-language model: {kind} has a vision tower but no language tower; "
            "give an image-text model such as LLaVA, InstructBLIP or CLIP."
        )
    return Anatomy({name: Tower(name, tuple(towers[name])) for name in TOWERS if towers[name]})


def _own_encoder(model: Any, modality: str | None) -> nn.Module | None:
    """The encoder of one modality, or None where transformers finds no module of its own for it."""
    encoder = model.get_encoder(modality=modality) if hasattr(model, "get_encoder") else None
    if not isinstance(encoder, nn.Module) or encoder in (model, getattr(model, "base_model", model)):
        return None
    return encoder


def _image_encoder(model: nn.Module) -> nn.Module | None:
    encoder = _own_encoder(model, "image")
    words = _vocabulary(model)
    if encoder is not None and not any(
        isinstance(part, nn.Embedding) and part.num_embeddings == words for part in encoder.modules()
    ):
        return encoder
    # No module by one of transformers' usual names, or one that reads text and holds the vision tower.
    if "text" in getattr(model, "input_modalities", ()):
        for module in (encoder or model).modules():
            if module is not model and tuple(getattr(module, "input_modalities", ())) == ("image",):
                return module
    return encoder


def _vocabulary(model: nn.Module) -> int | None:
    config: Any = getattr(model, "config", None)
    return getattr(config.get_text_config(), "vocab_size", None) if config is not None else None


def _split_vision(tree: "_Tree", vision: nn.Module) -> tuple[list[Chain], list[Chain]]:
    """The vision tower's chains, and what follows them within it (patch merger, adapter): the connector's."""
    pieces = list(tree.pieces(vision, set()))
    chains = list(tree.chains(vision, set()))
    if not chains:
        return [], []
    width = max(len(block.linears) for chain in chains for block in chain.blocks)
    # A list of patch mergers looks like a chain, but no block of a transformer makes do with two linears.
    towers = [chain for chain in chains if len(chain.blocks[0].linears) > 2 or width <= 2]
    last = max(pieces.index(chain) for chain in towers)
    # Stray linears before the last block are the patch embedding's; an attention pool makes one vector for a
    # contrastive loss, which no language model reads.
    rest = [piece for i, piece in enumerate(pieces) if piece in chains or i > last]
    return towers, [piece for piece in rest if piece not in towers and not tree.pools(piece)]


def _language(
    tree: "_Tree", model: Any, vision: nn.Module, foreign: set[nn.Module]
) -> tuple[list[Chain], set[nn.Module]]:
    """The language tower's chains, and the modules that hold nothing but the language tower.

    The tower is the largest module around the decoder that does not hold the vision tower, and the text
    encoder where that stands apart.
    """
    root = decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    while hasattr(decoder, "get_decoder") and (inner := decoder.get_decoder()) is not decoder:
        decoder = inner
    while (
        (parent := tree.parent(root)) is not None and parent is not model and not tree.inside(vision, parent)
    ):
        root = parent
    roots = [root]
    encoder = _own_encoder(model, None)
    if encoder is not None and not tree.inside(encoder, root) and not tree.inside(encoder, vision):
        roots.insert(0, encoder)
    chains: list[Chain] = []
    for root in roots:
        found = list(tree.chains(root, foreign | set(roots) - {root}))
        if found and tree.inside(vision, root):  # connector and all: the longest chain and its like
            longest = max(found, key=lambda chain: sum(len(block.linears) for block in chain.blocks))
            found = [chain for chain in found if tree.kinds(chain) & tree.kinds(longest)]
        chains += found
    decodes = [tree.inside(tree.modules[chain.name], decoder) for chain in chains]
    if not all(decodes) or getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        chains = [replace(chain, reads_labels=reads) for chain, reads in zip(chains, decodes, strict=True)]
    return chains, {root for root in roots if not tree.inside(vision, root)}


class _Tree:
    """A module tree searched for chains and stray linears, each weight once."""

    def __init__(self, model: Any) -> None:
        self.modules = dict(model.named_modules())
        self.names = {module: name for name, module in self.modules.items()}
        self.head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
        seen = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
        self.linears: set[str] = set()
        for name, module in self.modules.items():
            # Exactly these: subclasses of nn.Linear store the weight otherwise (4-bit) or are never called.
            if (
                type(module) in (nn.Linear, PackedLinear)
                and not self._is_head(module)
                and module.weight not in seen
            ):
                seen.add(module.weight)
                self.linears.add(name)

    def _is_head(self, linear: nn.Linear) -> bool:
        """Logits over the vocabulary, or the few answers of a classifier or router."""
        return linear is self.head or linear.out_features < 4

    def parent(self, module: nn.Module) -> nn.Module | None:
        name = self.names[module]
        return self.modules[name.rpartition(".")[0]] if name else None

    def inside(self, module: nn.Module, root: nn.Module) -> bool:
        """Whether `module` is `root` or lies beneath it."""
        return not self.names[root] or f"{self.names[module]}.".startswith(f"{self.names[root]}.")

    def kinds(self, chain: Chain) -> set[type]:
        return {type(self.modules[block.name]) for block in chain.blocks}

    def pools(self, chain: Chain) -> bool:
        module = self.modules[chain.blocks[0].name]
        return any(isinstance(part, nn.MultiheadAttention) for part in module.modules())

    def linears_of(self, module: nn.Module) -> tuple[str, ...]:
        """Names of the prunable linears in a module, in registration order."""
        return tuple(name for part in module.modules() if (name := self.names[part]) in self.linears)

    def is_chain(self, module: nn.Module) -> bool:
        """A container whose members are blocks: modules with parts of their own, some with linears."""
        if not isinstance(module, nn.ModuleList | nn.Sequential):
            return False
        if any(next(member.children(), None) is None for member in module):
            return False
        if isinstance(module, nn.Sequential) and (len(module) < 2 or len({type(m) for m in module}) > 1):
            return False
        return bool(self.linears_of(module))

    def chain(self, module: nn.Module) -> Chain:
        """The chain a container holds; a list within the list (a stage) is no block, its members are."""

        def blocks(container: nn.Module) -> Iterator[Block]:
            for member in container.children():
                if isinstance(member, nn.ModuleList):
                    yield from blocks(member)
                elif linears := self.linears_of(member):
                    yield Block(self.names[member], linears)

        return Chain(self.names[module], tuple(blocks(module)))

    def chains(self, root: nn.Module, fence: set[nn.Module]) -> Iterator[Chain]:
        """The outermost chains beneath a module, in registration order, without entering `fence`."""
        for child in root.children():
            if child not in fence:
                yield from [self.chain(child)] if self.is_chain(child) else self.chains(child, fence)

    def pieces(self, root: nn.Module, fence: set[nn.Module]) -> Iterator[Chain]:
        """The chains and, beside them, the largest callable modules with linears, as chains of one block."""
        for child in root.children():
            if child in fence or not self.linears_of(child):
                continue
            if self.is_chain(child):
                yield self.chain(child)
            elif (
                isinstance(child, nn.ModuleList)
                or any(part in fence for part in child.modules())
                or any(True for _ in self.chains(child, fence))
            ):
                yield from self.pieces(child, fence)
            else:
                yield Chain(self.names[child], (Block(self.names[child], self.linears_of(child)),))
