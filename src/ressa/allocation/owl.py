"""OWL: blocks with more outliers keep more weights (Yin et al., 2023, arXiv 2310.05175)."""

import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ressa.allocation.allocation import Allocation
from ressa.allocation.budget import Granularity, Layer, as_plan, fit, make_pools, shift_to_budget
from ressa.allocation.trial import input_statistics
from ressa.anatomy import Anatomy, find_anatomy
from ressa.fused import on_plain_linears
from ressa.sparsity import Pattern, Scope


@on_plain_linears
def owl(
    model: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    sparsity: Mapping[str, float],
    *,
    anatomy: Anatomy | None = None,
    joint: bool = True,
    granularity: Granularity = "block",
    threshold: float = 5.0,
    spread: float = 0.08,
    seed: int = 0,
    scope: Scope = "row",
    device: torch.device | str | None = None,
) -> Allocation:
    """Shares of zeros from each block's share of outliers; the model is not changed.

    A weight is an outlier if its Wanda score |w|·‖x‖₂ is more than `threshold` (M) times the mean over its
    block. Shares of outliers are scaled to span 2·`spread` (2λ), centred, and subtracted from the sparsity, so
    that each lies within 2λ of the target. Blocks differ in size here, so "centred" means by weights, which
    meets the budget. joint: whether towers are compared with each other or each within itself. `seed` changes
    nothing.

    ‖x‖₂ is the root mean square over tokens; the official code has the sum over a sample's tokens, so that layers which
    see more of them score higher. In a decoder-only model all layers of a block see the same and nothing changes; in
    a T5 decoder cross-attention's k and v see the encoder's tokens, and there the two differ.
    """
    started = time.perf_counter()
    anatomy = anatomy or find_anatomy(model)
    pools = make_pools(model, anatomy, sparsity, joint=joint, granularity=granularity)
    layers = [layer.name for pool in pools for layer in pool.layers]
    norms = {n: s.norm() for n, s in input_statistics(model, anatomy, batches, layers, device).items()}
    modules: dict[str, nn.Module] = dict(model.named_modules())
    patterns: dict[str, Pattern] = {}
    outliers: dict[str, float] = {}
    for pool in pools:
        groups = pool.groups()
        found = {name: outlier_share(modules, norms, layers, threshold) for name, layers in groups.items()}
        low, span = min(found.values()), max(found.values()) - min(found.values())
        shares = {
            layer.name: pool.sparsity - (2 * spread * (found[name] - low) / span if span else 0.0)
            for name, layers in groups.items()
            for layer in layers
        }
        patterns |= fit(pool, shift_to_budget(pool, shares), scope)
        outliers |= found
    plan = as_plan(patterns, anatomy.linears())
    return Allocation("owl", plan, time.perf_counter() - started, {"outliers": outliers})


@torch.no_grad()
def outlier_share(
    modules: Mapping[str, nn.Module], norms: Mapping[str, Tensor], layers: Sequence[Layer], threshold: float
) -> float:
    """The share of scores |w|·‖x‖₂ above `threshold` times their mean, over all the layers' weights together.

    norms: layer → fp32 (in,).
    """

    def scores(layer: Layer) -> Tensor:
        weight: Tensor = modules[layer.name].weight  # type: ignore[assignment]
        return weight.float().abs() * norms[layer.name].to(weight.device)

    count = sum(layer.rows * layer.width for layer in layers)
    mean = sum(scores(layer).sum(dtype=torch.float64).item() for layer in layers) / count
    return sum(int((scores(layer) > threshold * mean).sum()) for layer in layers) / count
