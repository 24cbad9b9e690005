"""A model's module tree, searched for chains of blocks and stray linears, each weight once."""

from collections.abc import Iterator, Set
from typing import Any

from torch import nn

from ressa.anatomy.parts import Block, Chain
from ressa.fused import Split, SplitAttention, SplitExperts
from ressa.runtime.linear import PackedLinear

_LEAST_LINEARS = 4  # of a transformer's block: packed attention, its output, and two of the MLP


class Tree:
    """Modules by name; `linears` are those that can be pruned.

    Not among them: output heads, routers, embeddings' twins, linears of another kind (4-bit), weights that several
    modules share beyond the first of them.
    """

    def __init__(self, model: Any) -> None:
        self.modules: dict[str, nn.Module] = dict(model.named_modules())
        self.names = {module: name for name, module in self.modules.items()}
        self.head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
        seen: set[Any] = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
        self.linears: set[str] = set()
        for name, module in self.modules.items():
            # Exactly these: subclasses of nn.Linear store the weight otherwise (4-bit) or are never called.
            if not isinstance(module, nn.Linear | PackedLinear) or type(module) not in (
                nn.Linear,
                PackedLinear,
            ):
                continue
            if module.weight not in seen and not self._chooses(name, module):
                seen.add(module.weight)
                self.linears.add(name)

    def _chooses(self, name: str, linear: nn.Linear | PackedLinear) -> bool:
        """Whether it gives logits: over the vocabulary, the few answers of a classifier, or a layer's experts."""
        if linear is self.head or linear.out_features < 4:
            return True
        around = self.modules[name.rpartition(".")[0]]
        experts = {part.count for part in around.children() if isinstance(part, SplitExperts)}
        return linear.out_features in experts

    def size(self, linear: str) -> int:
        """The number of weights that a linear has, kept or not."""
        module: Any = self.modules[linear]
        return int(module.in_features) * int(module.out_features)  # Inkling computes them as tensors

    def parent(self, module: nn.Module) -> nn.Module | None:
        name = self.names[module]
        return self.modules[name.rpartition(".")[0]] if name else None

    def inside(self, module: nn.Module | None, root: nn.Module) -> bool:
        """Whether `module` is `root` or lies beneath it; never for no module at all."""
        if module is None:
            return False
        return not self.names[root] or f"{self.names[module]}.".startswith(f"{self.names[root]}.")

    def kinds(self, chain: Chain) -> set[type]:
        return {type(self.modules[block.name]) for block in chain.blocks}

    def around(self, chain: Chain) -> nn.Module:
        """The module that a chain's container lies in."""
        return self.modules[chain.name.rpartition(".")[0]]

    def pools(self, chain: Chain) -> bool:
        """Whether it makes one vector of many by attention."""
        module = self.modules[chain.blocks[0].name]
        return any(isinstance(part, SplitAttention) for part in module.modules())

    def linears_of(self, module: nn.Module) -> tuple[str, ...]:
        """Names of the prunable linears in a module, in registration order."""
        return tuple(name for part in module.modules() if (name := self.names[part]) in self.linears)

    def is_chain(self, module: nn.Module) -> bool:
        """A container whose members are blocks: modules with parts of their own, some with linears."""
        if not isinstance(module, nn.ModuleList | nn.Sequential) or isinstance(module, Split):
            return False
        if any(next(member.children(), None) is None for member in module):
            return False
        if isinstance(module, nn.Sequential) and (len(module) < 2 or len({type(m) for m in module}) > 1):
            return False
        return bool(self.linears_of(module))

    def chain(self, module: nn.Module) -> Chain:
        """The chain a container holds. A list within the list is no block, its members are; of a stage (Swin,
        GroupViT) the layers are the blocks, and what the stage does beside them is one."""
        return Chain(self.names[module], tuple(self._blocks(module)))

    def _blocks(self, container: nn.Module) -> Iterator[Block]:
        for member in container.children():
            linears = self.linears_of(member)
            if isinstance(member, nn.ModuleList):
                yield from self._blocks(member)
            elif self._is_stage(member):
                for piece in self.pieces(member, set()):
                    yield from piece.blocks
            elif linears:
                yield Block(self.names[member], linears)

    def _is_stage(self, member: nn.Module) -> bool:
        """Whether a member of a chain is itself a chain of whole blocks, alike, and little beside."""
        for inner in self.chains(member, set()):
            layers = [self.modules[block.name] for block in inner.blocks]
            alike = len({type(layer) for layer in layers}) == 1
            if alike and all(len(self.linears_of(layer)) >= _LEAST_LINEARS for layer in layers):
                return True
        return False

    def chains(self, root: nn.Module, fence: Set[nn.Module]) -> Iterator[Chain]:
        """The outermost chains beneath a module, in registration order, without entering `fence`."""
        for child in root.children():
            if child not in fence:
                yield from [self.chain(child)] if self.is_chain(child) else self.chains(child, fence)

    def pieces(self, root: nn.Module, fence: Set[nn.Module]) -> Iterator[Chain]:
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
