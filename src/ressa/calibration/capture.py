"""What each block of a model is called with: hooks on a whole forward, stopped as soon as it can be.

Blocks that hand their outputs straight to the next are recorded with links in place of those outputs, so that
a chain can be run block by block, each on what its already pruned predecessor gave. What a block gives does not
matter while it is recorded, so once it is known that copies of its inputs are shaped like its outputs, they stand
in for them and nothing is computed.
"""

import weakref
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
                made[id(leaf)] = leaf.to(device, copy=True, non_blocking=device.type == "cuda")
            return made[id(leaf)]

        return Call(map_leaves(self.args, copy), map_leaves(self.kwargs, copy))

    def tensors(self) -> list[Tensor]:
        """All that it holds, one given twice counted once."""
        found = {id(leaf): leaf for _, leaf in leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)}
        return list(found.values())

    def linked(self) -> tuple[Path, ...]:
        """Where its arguments are what the block before gives."""
        return tuple(path for path, leaf in leaves((self.args, self.kwargs)) if isinstance(leaf, Link))


Record = list[list[Call]]  # how a run of blocks was called on one batch: [i] are the calls of block i


@dataclass(frozen=True)
class Like:
    """Stands for a tensor shaped like the argument at a path of (args, kwargs)."""

    path: Path


@dataclass(frozen=True)
class StandIn:
    """A forward in a block's place that computes nothing: copies of arguments, shaped like the block's outputs.

    output: what the block gave, with `Like` in place of tensors.
    """

    output: Any

    @classmethod
    def of(cls, args: Any, kwargs: Any, output: Any) -> "StandIn | None":
        """From one call of the block; None if it gives something that no argument is shaped like."""
        shaped: dict[Any, Path] = {}
        for path, leaf in leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                shaped.setdefault((leaf.shape, leaf.dtype), path)

        def known(leaf: Any) -> bool:
            if isinstance(leaf, Tensor):
                return (leaf.shape, leaf.dtype) in shaped
            return leaf is None or isinstance(leaf, bool | int | float)

        def like(leaf: Any) -> Any:
            return Like(shaped[leaf.shape, leaf.dtype]) if isinstance(leaf, Tensor) else leaf

        # A mapping may be of a class of its own, which the model asks for its parts by attribute.
        if isinstance(output, Mapping) or not all(known(leaf) for _, leaf in leaves(output)):
            return None
        return cls(map_leaves(output, like))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return map_leaves(
            self.output,
            lambda leaf: get((args, kwargs), leaf.path).clone() if isinstance(leaf, Like) else leaf,
        )


class Stop(Exception):
    """Raised where nothing of the rest of a forward is needed."""


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


def get(tree: Any, path: Path) -> Any:
    """The leaf at a path."""
    for key in path:
        tree = tree[key]
    return tree


@dataclass
class Seen:
    """How often one forward called a module, what can stand in for it, and whether it found something new in a
    mapping that it shares with modules before it (keys and values of attention, in Gemma 3n)."""

    calls: int = 0
    stand_in: StandIn | None = None
    handed_over: bool = False


def call_order(forward: Callable[[], Any], modules: Mapping[str, nn.Module]) -> dict[str, Seen]:
    """What is seen of the modules in one forward, in the order of their first call; those not called are absent."""
    seen: dict[str, Seen] = {}
    shared: dict[int, tuple[Any, list[Any]]] = {}  # by id: a mapping, and what the last module found in it
    with ExitStack() as hooks:
        for name, module in modules.items():

            def before(_module: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
                one = seen.setdefault(name, Seen())
                one.calls += 1
                for mapping in (each for each in (*args, *kwargs.values()) if isinstance(each, Mapping)):
                    _, known = shared.get(id(mapping), (None, None))
                    found = [leaf for _, leaf in leaves(mapping)]
                    shared[id(mapping)] = mapping, found
                    one.handed_over |= known is not None and any(
                        all(leaf is not other for other in known) for leaf in found
                    )

            def after(_module: nn.Module, args: Any, kwargs: Any, output: Any, name: str = name) -> None:
                if seen[name].calls == 1:
                    seen[name].stand_in = StandIn.of(args, kwargs, output)

            hooks.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            hooks.callback(module.register_forward_hook(after, with_kwargs=True).remove)
        forward()
    return seen


@contextmanager
def standing_in(modules: Sequence[nn.Module], stand_ins: Sequence[StandIn | None]) -> Iterator[None]:
    """Modules for which there is a stand-in compute nothing."""
    with ExitStack() as undo:
        for module, stand_in in zip(modules, stand_ins, strict=True):
            if stand_in is not None:
                undo.callback(_put_forward, module, module.__dict__.get("forward"))
                _put_forward(module, stand_in)
        yield


def _put_forward(module: nn.Module, forward: Callable[..., Any] | None) -> None:
    """A forward of the module's own (as accelerate gives, too), or its class's again."""
    if forward is None:
        del module.__dict__["forward"]
    else:
        module.__dict__["forward"] = forward


def capture(
    forward: Callable[[], Any],
    blocks: Sequence[nn.Module],
    keep_tensor: Callable[[Tensor], Tensor],
    stand_ins: Sequence[StandIn | None],
    *,
    until: nn.Module | None = None,
    once: bool = False,
    perturb: bool = False,
) -> Record:
    """Run `forward` and record how each of `blocks` (which run one after another) is called.

    keep_tensor: makes the copy of an argument that the record holds. stand_ins: for each block, what computes in
    its place. The forward is stopped where `until` would be called, and, if the blocks are called only `once`,
    after the last of them. perturb: change what every block gives, so that a comparison with an ordinary record
    shows which arguments come from the blocks.
    """
    record: Record = [[] for _ in blocks]
    # Outputs of block i and their versions. One that is gone cannot be given to the next block.
    given: list[list[tuple[Path, weakref.ref[Tensor], int]]] = [[] for _ in blocks]
    returned: list[int] = [0] * len(blocks)
    copies: dict[int, tuple[Tensor, int, Tensor]] = {}  # one copy of a tensor that many blocks are given

    def before(i: int, args: Any, kwargs: Any) -> None:
        known = {id(ref()): (path, version) for path, ref, version in (given[i - 1] if i else ())}

        def keep(leaf: Any) -> Any:
            if isinstance(leaf, Cache):
                return None
            if not isinstance(leaf, Tensor):
                return leaf
            if id(leaf) in known and known[id(leaf)][1] == leaf._version:  # else changed in place since
                call, *path = known[id(leaf)][0]
                return Link(call, tuple(path))
            if id(leaf) not in copies or copies[id(leaf)][1] != leaf._version:
                copies[id(leaf)] = (leaf, leaf._version, keep_tensor(leaf))
            return copies[id(leaf)][2]

        record[i].append(Call(map_leaves(args, keep), map_leaves(kwargs, keep)))

    def after(i: int, output: Any) -> Any:
        if perturb:
            output = map_leaves(output, _perturbed)
        for path, leaf in leaves(output):
            if isinstance(leaf, Tensor):
                given[i].append(((returned[i], *path), weakref.ref(leaf), leaf._version))
        returned[i] += 1
        if once and i == len(blocks) - 1:
            raise Stop
        return output if perturb else None

    def stop(_module: nn.Module, _args: Any) -> None:
        raise Stop

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
        with standing_in(blocks, stand_ins), suppress(Stop):
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
