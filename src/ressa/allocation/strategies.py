"""The strategies by name: which there are, what each takes, and one call for all of them."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ressa.allocation.allocation import Allocation
from ressa.allocation.auto import auto
from ressa.allocation.ecoflap import ecoflap
from ressa.allocation.owl import owl
from ressa.anatomy import Anatomy
from ressa.errors import UsageError
from ressa.sparsity import Scope

ALLOCATIONS: dict[str, Callable[..., Allocation]] = {
    "ecoflap-first": partial(ecoflap, order="first"),
    "ecoflap-zeroth": partial(ecoflap, order="zeroth"),
    "owl": owl,
    "auto": auto,
}


def batching(name: str, samples: int, batch_size: int) -> tuple[int, int]:
    """How many of the calibration samples the strategy of this name takes, and how many make a batch.

    ECoFLaP's loss is that of one sample at a time, of 32 (the official code's `num_data_first_stage` and its
    batch size of 1).
    """
    return (min(samples, 32), 1) if name.startswith("ecoflap") else (samples, batch_size)


def allocate(
    name: str,
    model: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    sparsity: Mapping[str, float],
    *,
    anatomy: Anatomy | None = None,
    joint: bool = True,
    scope: Scope = "row",
    seed: int = 0,
    device: torch.device | str | None = None,
    **options: Any,
) -> Allocation:
    """Spend a budget by the strategy of this name. `uniform` is `per_tower` and none of these.

    sparsity: tower → share of zeros. joint: one budget for all towers, or each its own. options: the
    strategy's own. Raises UsageError for an unknown name.
    """
    if name not in ALLOCATIONS:
        raise UsageError(
            f"There is no allocation '{name}'; choose one of: uniform, {', '.join(ALLOCATIONS)}."
        )
    return ALLOCATIONS[name](
        model,
        batches,
        sparsity,
        anatomy=anatomy,
        joint=joint,
        scope=scope,
        seed=seed,
        device=device,
        **options,
    )
