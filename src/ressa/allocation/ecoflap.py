"""ECoFLaP: coarse scores of whole blocks from the model's own loss set each block's sparsity (arXiv 2310.02998).

First order: Σ |w|·E|∂L/∂w| over the block. Zeroth order: E |L(w + εz) − L(w − εz)| / 2ε with z ~ N(0, 1) on the
block's linears, one pair of forwards a block and calibration batch. The official code computes something else for
each, and so do we where that is asked for (`form`): Σ w²·E|∂L/∂w|, and a block's score as the sum over its
linears, each with a draw of its own. Every block keeps the share that a cap on its
sparsity leaves it; what else the budget allows to keep is shared out in proportion to the scores, at most all of a
block.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ressa.allocation.allocation import Allocation
from ressa.allocation.budget import Granularity, Layer, Pool, as_plan, fit, make_pools, shift_to_budget
from ressa.allocation.outputs import Outputs, quiet
from ressa.anatomy import Anatomy, find_anatomy
from ressa.fused import on_plain_linears
from ressa.progress import bar
from ressa.sparsity import Pattern, Scope

Order = Literal["first", "zeroth"]
Form = Literal["paper", "code"]


@on_plain_linears
def ecoflap(
    model: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    sparsity: Mapping[str, float],
    *,
    order: Order = "zeroth",
    anatomy: Anatomy | None = None,
    joint: bool = True,
    granularity: Granularity = "block",
    form: Form = "paper",
    margin: float = 0.1,
    epsilon: float = 1e-3,
    seed: int = 0,
    scope: Scope = "row",
    device: torch.device | str | None = None,
) -> Allocation:
    """Shares of zeros from global scores; the model's weights are the same afterwards, bit for bit.

    Args:
        batches: calibration inputs with labels. The official code takes them one sample at a time, 32 by default
            (RESSA's script of the first order: 128).
        sparsity: tower → share of zeros; towers that are absent stay dense.
        joint: whether the towers share one budget (the official code) or keep one each.
        granularity: what is scored and gets one sparsity: a block (the official setting) or a layer.
        form: the scores as the paper writes them, or as the official code computes them.
        margin: no group gets more than this above its pool's sparsity (ECoFLaP: 0.1; RESSA's scripts: no such cap).
        epsilon: the size of the perturbation of the zeroth order. In bf16 the loss has few digits: a model in
            fp32 gives cleaner scores.
        scope: of the unstructured patterns.

    Raises UsageError for a budget that cannot be had or batches without targets.
    """
    started = time.perf_counter()
    anatomy = anatomy or find_anatomy(model)
    pools = make_pools(model, anatomy, sparsity, joint=joint, granularity=granularity)
    outputs = Outputs(model, batches, device)
    groups = {name: layers for pool in pools for name, layers in pool.groups().items()}
    with quiet(model):
        if order == "first":
            scores = first_order_scores(outputs, groups, form)
        else:
            scores = zeroth_order_scores(outputs, groups, epsilon, seed, form)
    patterns: dict[str, Pattern] = {}
    for pool in pools:
        highest = min(1.0, pool.sparsity + margin)
        shares = share_out(pool, scores, highest)
        patterns |= fit(pool, shift_to_budget(pool, shares, 0.0, highest), scope, highest)
    plan = as_plan(patterns, anatomy.linears())
    return Allocation(f"ecoflap-{order}", plan, time.perf_counter() - started, {"scores": scores})


def first_order_scores(
    outputs: Outputs, groups: Mapping[str, Sequence[Layer]], form: Form = "paper"
) -> dict[str, float]:
    """Group → Σ |w|·(mean over batches of |∂L/∂w|), each batch's loss a mean over its tokens; in the code's form w²."""
    power = 1 if form == "paper" else 2
    modules: dict[str, nn.Module] = dict(outputs.model.named_modules())
    weights: dict[str, nn.Parameter] = {
        layer.name: modules[layer.name].weight  # type: ignore[misc]
        for layers in groups.values()
        for layer in layers
    }
    scores = dict.fromkeys(weights, 0.0)
    try:
        for weight in weights.values():
            weight.requires_grad_(True)
        with bar("Scoring blocks (first order)", len(outputs.batches)) as progress:
            for index in range(len(outputs.batches)):
                outputs.task_loss(index).backward()
                for name, weight in weights.items():
                    # w is the same for every batch, so the mean of the products is the product of the means.
                    if weight.grad is not None:
                        product = weight.detach().float() ** power * weight.grad.float()
                        scores[name] += product.abs().sum().item() / len(outputs.batches)
                    weight.grad = None
                progress.advance()
    finally:
        for weight in weights.values():
            weight.requires_grad_(False)
            weight.grad = None
    return {group: sum(scores[layer.name] for layer in layers) for group, layers in groups.items()}


@torch.no_grad()
def zeroth_order_scores(
    outputs: Outputs, groups: Mapping[str, Sequence[Layer]], epsilon: float, seed: int, form: Form = "paper"
) -> dict[str, float]:
    """Group → mean over batches of |L(w + εz) − L(w − εz)| / 2ε, z on all linears of the group at once; in the code's
    form on one after the other, and added up."""
    modules: dict[str, nn.Module] = dict(outputs.model.named_modules())
    units = [
        (group, unit)
        for group, layers in groups.items()
        for unit in ([layers] if form == "paper" else [[layer] for layer in layers])
    ]
    scores = dict.fromkeys(groups, 0.0)
    with bar("Scoring blocks (zeroth order)", len(units) * len(outputs.batches)) as progress:
        for place, (group, layers) in enumerate(units):
            weights: list[Tensor] = [modules[layer.name].weight for layer in layers]  # type: ignore[misc]
            dense = [weight.clone() for weight in weights]  # adding and subtracting would not give it back
            total = 0.0
            for index in range(len(outputs.batches)):
                noise = _draw(weights, seed * 1_000_003 + place * 10_007 + index)
                losses = []
                for size in (epsilon, -epsilon):
                    for weight, original, z in zip(weights, dense, noise, strict=True):
                        weight.copy_(original.float() + size * z)
                    losses.append(outputs.task_loss(index).item())
                total += abs(losses[0] - losses[1]) / (2 * epsilon)
                progress.advance()
            for weight, original in zip(weights, dense, strict=True):
                weight.copy_(original)
            scores[group] += total / len(outputs.batches)
    return scores


def _draw(weights: Sequence[Tensor], seed: int) -> list[Tensor]:
    """fp32 z ~ N(0, 1) shaped like each weight, drawn where it lies: a block of a 7B model has 200 million.

    So a seed gives other numbers on a GPU than on the CPU.
    """
    generators = {device: torch.Generator(device).manual_seed(seed) for device in {w.device for w in weights}}
    return [
        torch.randn(weight.shape, generator=generators[weight.device], device=weight.device)
        for weight in weights
    ]


def share_out(pool: Pool, scores: Mapping[str, float], highest: float) -> dict[str, float]:
    """Layer → share of zeros: a group keeps (1 − highest) of itself and, of what is left to keep, a part in
    proportion to its score, at most all of itself.

    That is keep = min(size, (1 − highest)·size + t·score) with the one t that meets the budget; where all
    scores are 0 everything gets the same.
    """
    groups = {name: sum(layer.size for layer in layers) for name, layers in pool.groups().items()}
    if not any(scores[name] > 0 for name in groups):
        return dict.fromkeys((layer.name for layer in pool.layers), pool.sparsity)
    keep = {name: (1 - highest) * size for name, size in groups.items()}
    rest = pool.size - pool.zeros - sum(keep.values())
    # Groups fill up in the order of their room per score; until one does, all grow in proportion.
    open_ones = sorted(
        (name for name in groups if scores[name] > 0), key=lambda n: (groups[n] - keep[n]) / scores[n]
    )
    while open_ones and rest > 0:
        total = sum(scores[name] for name in open_ones)
        first = open_ones[0]
        part = min(rest / total, (groups[first] - keep[first]) / scores[first])
        for name in open_ones:
            keep[name] += part * scores[name]
        rest -= part * total
        open_ones.pop(0)
    return {
        layer.name: min(1.0, max(0.0, 1 - keep[name] / groups[name]))
        for name, layers in pool.groups().items()
        for layer in layers
    }
