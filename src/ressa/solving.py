"""The layers of one block, each solved by one of the processes of a run; every process gets what all made."""

from collections.abc import Callable, Iterator, Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from ressa.calibration.statistics import Statistics
from ressa.processes import place
from ressa.sparsity import pack_mask, unpack_mask

Solve = Callable[[str, Tensor, Statistics | None], tuple[Tensor, Tensor]]


def sum_over_processes(statistics: Mapping[str, Statistics]) -> None:
    """Each process's share of the samples becomes all of them, in the statistics of a block's layers."""
    for shared in {id(each): each for each in statistics.values()}.values():
        shared.all_reduce()


def solve_block(
    weights: Mapping[str, Tensor], statistics: dict[str, Statistics], solve: Solve
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Layer, mask, pruned weight (out, in) of every layer of a block.

    statistics: of the inputs of those that need them, by all samples; let go of as layers are solved. Without any,
    each process solves every layer by itself.
    """
    rank, processes = place()
    if processes == 1 or not statistics:
        for name, weight in weights.items():
            yield name, *solve(name, weight, statistics.pop(name, None))
        return
    owner = share_out(weights, statistics, processes)
    made = {
        name: solve(name, weight, statistics.get(name))
        for name, weight in weights.items()
        if owner[name] == rank
    }
    statistics.clear()
    for name, weight in weights.items():
        yield name, *_broadcast(weight, made.pop(name, None), owner[name])


def share_out(
    weights: Mapping[str, Tensor], statistics: Mapping[str, Statistics], processes: int
) -> dict[str, int]:
    """Layer → the process that solves it. Layers that share statistics, and so what is made of them, go to one;
    the costliest are given out first, each to whoever has least to do."""
    groups: dict[int, list[str]] = {}
    for name in weights:
        groups.setdefault(id(statistics.get(name, name)), []).append(name)

    def cost(names: list[str]) -> int:
        """Of SparseGPT, up to a factor: H⁻¹'s Cholesky factor once, then a sweep over each layer's columns."""
        width = weights[names[0]].shape[1]
        return width**2 * (width + sum(weights[name].shape[0] for name in names))

    load = [0] * processes
    owner: dict[str, int] = {}
    for names in sorted(groups.values(), key=cost, reverse=True):
        least = load.index(min(load))
        load[least] += cost(names)
        owner |= dict.fromkeys(names, least)
    return owner


def _broadcast(weight: Tensor, made: tuple[Tensor, Tensor] | None, owner: int) -> tuple[Tensor, Tensor]:
    """What the owner made of a layer: mask and pruned weight."""
    rows, width = weight.shape
    if made is None:
        packed = torch.empty(rows, -(-width // 8), dtype=torch.uint8, device=weight.device)
        pruned = torch.empty_like(weight)
    else:
        packed, pruned = pack_mask(made[0]), made[1].contiguous()
    dist.broadcast(packed, owner)
    dist.broadcast(pruned, owner)
    return unpack_mask(packed, width) if made is None else made[0], pruned
