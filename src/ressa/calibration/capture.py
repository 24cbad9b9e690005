"""What each block of a model is called with: hooks on a whole forward, stopped as soon as it can be.

Blocks that hand their outputs straight to the next are recorded with links in place of those outputs, so that
a chain can be run block by block, each on what its already pruned predecessor gave.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

Path = tuple[Any, ...]


@dataclass(frozen=True)
class Link:
    """Stands for a tensor that the block before gave: which of its calls, and where in that call's output."""

    call: int
    path: Path


@dataclass
class Call:
    """One call of one block; tensors are own copies, or links."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def resolve(self, outputs: Sequence[Any]) -> "Call":
        """Links replaced by what they stand for; outputs: of the block before, one per call."""

        def fetch(leaf: Any) -> Any:
            return get(outputs[leaf.call], leaf.path) if isinstance(leaf, Link) else leaf

        return Call(map_leaves(self.args, fetch), map_leaves(self.kwargs, fetch))

    def to(self, device: torch.device) -> "Call":
        """A copy on `device`, always fresh: a block may write into what it is given."""
        made: dict[int, Tensor] = {}  # a tensor given twice stays one tensor

        def copy(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            if id(leaf) not in made:
                made[id(leaf)] = leaf.to(device, copy=True)
            return made[id(leaf)]

        return Call(map_leaves(self.args, copy), map_leaves(self.kwargs, copy))

    def linked(self) -> tuple[Path, ...]:
        """Where its arguments are what the block before gives."""
        return tuple(path for path, leaf in leaves((self.args, self.kwargs)) if isinstance(leaf, Link))


Record = list[list[Call]]  # how a run of blocks was called on one batch: [i] are the calls of block i


class _Stop(Exception):
    """Raised after the last block of interest; nothing of the rest of the forward is needed."""


def map_leaves(tree: Any, function: Callable[[Any], Any]) -> Any:
    """Apply a function to what lists, tuples and mappings hold, keeping their kinds."""
    if isinstance(tree, Mapping):
        return {key: map_leaves(value, function) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(map_leaves(value, function) for value in tree))
    if isinstance(tree, list | tuple):
        return type(tree)(map_leaves(value, function) for value in tree)
    return function(tree)


def leaves(tree: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every leaf with its path."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from leaves(value, (*path, key))
    elif isinstance(tree, list | tuple):
        for i, value in enumerate(tree):
            yield from leaves(value, (*path, i))
    else:
        yield path, tree


def to_device(tree: Any, device: torch.device) -> Any:
    """The same with every tensor on `device`."""
    return map_leaves(tree, lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf)


def get(tree: Any, path: Path) -> Any:
    """The leaf at a path."""
    for key in path:
        tree = tree[key]
    return tree


def call_order(forward: Callable[[], Any], modules: Mapping[str, nn.Module]) -> dict[str, int]:
    """Names of the modules that one forward calls, in the order of their first call → number of calls."""
    counts: dict[str, int] = {}
    with ExitStack() as hooks:
        for name, module in modules.items():

            def count(_module: nn.Module, _args: Any, name: str = name) -> None:
                counts[name] = counts.get(name, 0) + 1

            hooks.callback(module.register_forward_pre_hook(count).remove)
        forward()
    return counts


def capture(
    forward: Callable[[], Any],
    blocks: Sequence[nn.Module],
    *,
    until: nn.Module | None = None,
    once: bool = False,
    perturb: bool = False,
) -> Record:
    """Run `forward` and record how each of `blocks` (which run one after another) is called.

    The forward is stopped where `until` would be called, and, if the blocks are called only `once`, after the
    last of them. perturb: change what every block gives, so that a comparison with an ordinary record shows
    which arguments come from the blocks.
    """
    record: Record = [[] for _ in blocks]
    given: list[list[tuple[Path, Tensor, int]]] = [
        [] for _ in blocks
    ]  # outputs of block i and their versions
    returned: list[int] = [0] * len(blocks)
    copies: dict[int, tuple[Tensor, int, Tensor]] = {}  # one copy of a tensor that many blocks are given

    def before(i: int, args: Any, kwargs: Any) -> None:
        known = {id(t): (path, version) for path, t, version in given[i - 1]} if i else {}

        def keep(leaf: Any) -> Any:
            if isinstance(leaf, Cache):
                return None
            if not isinstance(leaf, Tensor):
                return leaf
            if id(leaf) in known and known[id(leaf)][1] == leaf._version:  # else changed in place since
                call, *path = known[id(leaf)][0]
                return Link(call, tuple(path))
            if id(leaf) not in copies or copies[id(leaf)][1] != leaf._version:
                copies[id(leaf)] = (leaf, leaf._version, leaf.detach().clone())
            return copies[id(leaf)][2]

        record[i].append(Call(map_leaves(args, keep), map_leaves(kwargs, keep)))

    def after(i: int, output: Any) -> Any:
        if perturb:
            output = map_leaves(output, _perturbed)
        for path, leaf in leaves(output):
            if isinstance(leaf, Tensor):
                given[i].append(((returned[i], *path), leaf, leaf._version))
        returned[i] += 1
        if once and i == len(blocks) - 1:
            raise _Stop
        return output if perturb else None

    def stop(_module: nn.Module, _args: Any) -> None:
        raise _Stop

    with ExitStack() as hooks:
        if until is not None:
            hooks.callback(until.register_forward_pre_hook(stop, prepend=True).remove)
        for i, block in enumerate(blocks):
            # Before any other pre-hook and after any other hook: the tensors that the model itself handles.
            pre = block.register_forward_pre_hook(
                lambda _m, args, kwargs, i=i: before(i, args, kwargs), with_kwargs=True, prepend=True
            )
            post = block.register_forward_hook(lambda _m, _args, output, i=i: after(i, output))
            hooks.callback(pre.remove)
            hooks.callback(post.remove)
        with suppress(_Stop):
            forward()
    return record


def _perturbed(leaf: Any) -> Any:
    """A tensor of like size that no scaling and no norm makes equal to the original."""
    if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or not leaf.dim():
        return leaf
    return leaf * 0.75 + leaf.roll(1, -1) * 0.25


def independent(record: Record, perturbed: Record) -> int:
    """How many of the recorded blocks, from the first on, can run one by one: the first one always, and those
    whose arguments are links or do not change when the blocks before them give something else."""
    for i, (calls, others) in enumerate(zip(record, perturbed, strict=True)):
        if i and (len(calls) != len(others) or any(map(_differ, calls, others))):
            return i
    return len(record)


def linked_alike(records: Sequence[Record], most: int) -> int:
    """How many of the first `most` blocks are linked to the one before in the same way on every batch."""
    for i in range(most):
        ways = {call.linked() for record in records for call in record[i]}
        if len(ways) > 1:
            return i
    return most


def _differ(call: Call, other: Call) -> bool:
    mine, theirs = list(leaves((call.args, call.kwargs))), list(leaves((other.args, other.kwargs)))
    if [path for path, _ in mine] != [path for path, _ in theirs]:
        return True
    for (_, a), (_, b) in zip(mine, theirs, strict=True):
        if isinstance(a, Tensor):
            if not isinstance(b, Tensor) or a.shape != b.shape or not torch.equal(a, b):
                return True
        elif isinstance(a, Link) and a != b:
            return True
    return False


@contextmanager
def on_device(modules: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Each module computes on `device` and lives where it was: a copy of its weights is there for each call.

    A module that lives on `device` when called just runs.
    """
    homes: dict[nn.Module, tuple[torch.device, list[tuple[Tensor, Tensor]]]] = {}

    def before(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        home = next(module.parameters()).device
        if home == device:
            return None
        homes[module] = home, [(tensor, tensor.data) for tensor in (*module.parameters(), *module.buffers())]
        for tensor, _ in homes[module][1]:
            tensor.data = tensor.data.to(device)
        call = Call(args, kwargs).to(device)
        return call.args, call.kwargs

    def after(module: nn.Module, _args: Any, output: Any) -> Any:
        if module not in homes:
            return None
        home, tensors = homes.pop(module)
        for tensor, data in tensors:
            tensor.data = data
        return to_device(output, home)

    with ExitStack() as hooks:
        for module in modules:
            hooks.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            hooks.callback(module.register_forward_hook(after, prepend=True, always_call=True).remove)
        yield
