"""Pruning: a plan, a method and calibration inputs make a model sparse in place, resumable block by block."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ressa.allocation.uniform import Asked, make_plan
from ressa.anatomy import Anatomy, Block, find_anatomy
from ressa.calibration.statistics import Statistics
from ressa.calibration.walk import walk
from ressa.checkpoint import FinishedBlocks, LayerReport
from ressa.errors import RunError, UsageError
from ressa.methods import Method, get_method, magnitude
from ressa.progress import bar
from ressa.provenance import fingerprint
from ressa.sparsity import Plan, Unstructured, global_plan
from ressa.warned import warn

WORTH_SAYING = 1e-3  # of the weights: a dense model has a few zeros, too


@dataclass(frozen=True)
class PruneResult:
    """masks: layer name → bool (out, in) on the CPU, True = kept. layers: what was asked and achieved, in the
    order of the anatomy. plan: the one carried out (a global comparison makes its own). revived: how many weights
    that were 0 before have a value now, given by a method that updates what it keeps."""

    masks: dict[str, Tensor]
    layers: list[LayerReport]
    plan: Plan
    seconds: float
    revived: int = 0


@torch.no_grad()
def prune(
    model: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    plan: Asked,
    *,
    method: str = "wanda",
    anatomy: Anatomy | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    work_dir: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    scope: Literal["layer", "global"] = "layer",
    tokens: Literal["all", "atv"] = "all",
    alpha: float = 1.0,
    keep_zeros: bool = False,
) -> PruneResult:
    """Prune a model in place, block by block in the order data flows.

    Args:
        batches: calibration inputs with images, as the model's forward takes them (`ressa.batches` makes
            them); may be empty for a method that needs no statistics.
        plan: a pattern such as "2:4" or 0.5 for vision and language, a mapping from towers to patterns
            ("dense" for none), or a `Plan` that gives each layer its own.
        device: where blocks compute (default: where they live).
        work_dir: finished blocks are kept there, so that a run that was cut short goes on, with the dense
            model given anew, to the same result; delete it once the result is saved.
        options: the method's own.
        scope: "global" compares the magnitudes of all layers of the plan with one threshold (method
            magnitude, one unstructured sparsity); "layer" follows the pattern of each layer.
        tokens: "atv" counts of the image tokens only those that a block changes most (arXiv 2603.16001).
        alpha: the α of "atv".
        keep_zeros: weights that are 0 already stay 0 and are outside the masks, whatever the method, so that a
            layer may get more zeros than its pattern asks for. Without it a method that updates what it keeps
            (SparseGPT) gives some of them values, which is warned of where the model was sparse.

    Raises UsageError before anything is changed: a plan that names no layer or an unknown one, a pattern that
    does not fit, an unknown method or option, no calibration samples or none with images. Raises RunError if
    the zeros made are not those asked for.
    """
    started = time.perf_counter()
    chosen, options = get_method(method), dict(options or {})
    chosen.check_options(options)
    needs = chosen.needs(options)
    if tokens == "atv" and needs is None:
        raise UsageError(f"The method {method} looks at no tokens: leave out the choice of tokens.")
    anatomy = anatomy or find_anatomy(model)
    plan = make_plan(plan, anatomy, model, scope=chosen.scope)
    if not plan:
        raise UsageError("The plan names no layer, so there is nothing to prune: give a tower a pattern.")
    modules: dict[str, Any] = dict(model.named_modules())
    plan.check({name: modules[name].weight.shape for name in anatomy.linears()})
    if scope == "global":
        plan = _compare_globally(modules, plan, chosen)
    if needs is not None:
        check_batches(batches)

    masks: dict[str, Tensor] = {}
    blocks = [block for block in anatomy.blocks() if any(name in plan for name in block.linears)]
    finished: FinishedBlocks | None = None
    if work_dir is not None:
        recipe = (method, sorted(options.items()), plan.to_dict(), seed, tokens, alpha, keep_zeros)
        identity = fingerprint([repr(recipe), *_contents(modules, plan, () if needs is None else batches)])
        finished = FinishedBlocks(work_dir, identity)
        masks |= finished.restore(blocks, modules)

    updating = {"keep_zeros": keep_zeros} if chosen.updates_weights else {}
    revived: list[Tensor] = []

    def visit(block: Block, statistics: dict[str, Statistics]) -> None:
        made: dict[str, Tensor] = {}
        for name in (name for name in block.linears if name in plan):
            linear, gathered = modules[name], statistics.pop(name, None)
            if gathered is not None:
                gathered.all_reduce()
            weight = linear.weight.to(device) if gathered is None and device is not None else linear.weight
            mask, pruned = chosen.apply(
                weight.detach(), gathered, plan[name], name=name, seed=seed, **updating, **options
            )
            if keep_zeros:
                mask = mask & (weight != 0)
            elif chosen.updates_weights:
                revived.append(((weight == 0) & (pruned != 0)).sum())
            linear.weight.copy_(pruned)
            made[name] = mask.cpu()
        if finished is not None:
            finished.keep(block, {name: modules[name].weight for name in made}, made)
        masks.update(made)
        progress.advance()

    with bar(f"Pruning ({method})", len(blocks)) as progress:
        remaining = [
            block for block in blocks if not all(name in masks for name in block.linears if name in plan)
        ]
        progress.advance(len(blocks) - len(remaining))
        if needs is None:
            for block in remaining:
                visit(block, {})
        elif remaining:
            walk(
                model,
                anatomy,
                batches,
                visit,
                lambda _name, linear: needs(linear.in_features, linear.weight.device),
                device,
                layers=[name for block in remaining for name in block.linears if name in plan],
                atv=alpha if tokens == "atv" else None,
            )
    layers = [
        _report(name, anatomy.tower_of(name), modules[name].weight, masks[name], plan, keep_zeros)
        for name in anatomy.linears()
        if name in plan
    ]
    masks = {layer.name: masks[layer.name] for layer in layers}
    count = sum(int(each) for each in revived)
    if count > WORTH_SAYING * sum(mask.numel() for mask in masks.values()):
        warn(
            f"{count:,} weights that were zero have values now, for {method} updates what it keeps: the model was "
            "sparse already; to leave its zeros zero, prune it with keep_zeros (--keep-zeros)."
        )
    return PruneResult(masks, layers, plan, time.perf_counter() - started, count)


def check_batches(batches: Sequence[Mapping[str, Tensor]]) -> None:
    """Raises UsageError if there are no calibration inputs, or some without an image."""
    if not batches:
        raise UsageError("The calibration set is empty: give at least one sample with an image and a text.")
    for batch in batches:
        if not any("pixel_values" in name or "patches" in name for name in batch):
            raise UsageError(
                "The calibration set has samples without an image, so nothing would reach the vision tower: "
                "give samples that have one."
            )


def _compare_globally(modules: Mapping[str, Any], plan: Plan, method: Method) -> Plan:
    """The plan that one threshold over the magnitudes of all its layers comes to."""
    patterns = set(plan.values())
    pattern = patterns.pop()
    if method.name != "magnitude" or patterns or not isinstance(pattern, Unstructured):
        raise UsageError(
            "Only magnitudes can be compared over all layers at once, with one unstructured sparsity: "
            "choose the method magnitude and one share of zeros such as 0.5 for all towers that are pruned."
        )
    return global_plan({name: magnitude.score(modules[name].weight) for name in plan}, pattern.sparsity)


def _contents(
    modules: Mapping[str, Any], plan: Plan, batches: Sequence[Mapping[str, Tensor]]
) -> Iterator[bytes]:
    """What tells one model and calibration set from another: a sample of every weight, and all inputs."""
    for name in plan:
        weight = modules[name].weight.detach().reshape(-1)
        yield _bytes(weight[:: max(1, len(weight) // 1024)])
    for batch in batches:
        for name in sorted(batch):
            yield name.encode()
            yield _bytes(batch[name])


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _report(
    name: str, tower: str, weight: Tensor, mask: Tensor, plan: Plan, more_zeros: bool = False
) -> LayerReport:
    """What one layer's weight holds. Raises RunError if that is not what the plan asks for.

    more_zeros: whether the mask may have more zeros than the pattern asks for.
    """
    pattern, (rows, width) = plan[name], weight.shape
    zeros = int((weight == 0).sum())
    outside = weight.detach().masked_fill(mask.to(weight.device), 0)
    masked, asked = int((~mask).sum()), pattern.zeros(weight.shape)
    if masked < asked or (masked > asked and not more_zeros) or not pattern.verify(mask) or outside.any():
        raise RunError(
            f"{name} was to get {asked} zeros in the pattern {pattern} and has {zeros} "
            f"({masked} by its mask): this is a defect of the method, please report it."
        )
    return LayerReport(
        name=name, tower=tower, shape=(rows, width), asked=str(pattern), achieved=zeros / weight.numel()
    )
