"""Pruning: a plan, a method and calibration inputs make a model sparse in place, resumable block by block."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ressa.allocation.uniform import Asked, make_plan
from ressa.anatomy import Anatomy, Block, find_anatomy
from ressa.calibration.experts import expert_groups, few_tokens, pool_few
from ressa.calibration.lending import Lender
from ressa.calibration.statistics import Statistics
from ressa.calibration.walk import Visit, never_reached, walk
from ressa.checkpoint import FinishedBlocks, LayerReport, StreamedWeights
from ressa.errors import RunError, UsageError
from ressa.fast_dtype import narrowed
from ressa.fused import on_plain_linears
from ressa.methods import Method, get_method, magnitude
from ressa.processes import place, share
from ressa.progress import bar
from ressa.provenance import fingerprint
from ressa.runtime.model import unpack_model
from ressa.solving import solve_block, sum_over_processes
from ressa.sparsity import PackedMasks, Plan, Unstructured, count_zeros, global_plan
from ressa.stopwatch import Stopwatch
from ressa.warned import warn

_SAMPLED = 32  # values of each parameter, that tell one model from another
WORTH_SAYING = 1e-3  # of the weights: a dense model has a few zeros, too


@dataclass(frozen=True)
class PruneResult:
    """masks: layer name → bool (out, in) on the CPU, True = kept; held packed, unpacked when asked for. layers:
    what was asked and achieved, in the order of the anatomy. plan: the one carried out (a global comparison makes
    its own). revived: how many weights that were 0 before have a value now, given by a method that updates what it
    keeps. spent: the seconds by what they went into, `calibrate` (the model runs) and `prune` (the method does)."""

    masks: Mapping[str, Tensor]
    layers: list[LayerReport]
    plan: Plan
    seconds: float
    revived: int = 0
    spent: Mapping[str, float] = field(default_factory=dict)


@torch.no_grad()
@on_plain_linears
def prune(
    model: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    plan: Asked,
    *,
    method: str = "sparsegpt",
    anatomy: Anatomy | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    work_dir: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    scope: Literal["layer", "global"] = "layer",
    tokens: Literal["all", "atv"] = "all",
    alpha: float = 1.0,
    statistics_of: Literal["pruned", "dense"] = "pruned",
    keep_zeros: bool = False,
    stored_in: torch.dtype | None = None,
    streamed: StreamedWeights | None = None,
    force: bool = False,
) -> PruneResult:
    """Prune a model in place, block by block in the order data flows. One that is packed is unpacked first.

    Of several processes that have met (torch.distributed), all given the same, each runs the model on its share
    of the batches and solves its share of a block's layers.

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
        statistics_of: whose inputs a method is told: those of the model as "pruned" so far, or of the "dense" one, as
            RESSA's training scripts have it. The latter are held for all layers at once, and not of weights on disk.
        keep_zeros: weights that are 0 already stay 0 and are outside the masks, whatever the method, so that a
            layer may get more zeros than its pattern asks for. Without it a method that updates what it keeps
            (SparseGPT) gives some of them values, which is warned of where the model was sparse.
        stored_in: a narrower dtype that the pruned weights will be stored in. They are rounded to it at once, so that
            the blocks behind them see what will be there.
        streamed: the shards of the output, if finished blocks go there and not into work_dir, and the model's own
            weights, if they stay on disk.
        force: drop unfinished work of something else, which is refused otherwise.

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
    unpack_model(model)
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
    shelf = None if streamed is None or streamed.resident else streamed
    if shelf is not None and place()[1] > 1:
        raise UsageError("Weights are streamed in one process: start one, or leave out the streaming.")

    masks, watch = PackedMasks(), Stopwatch()
    reports: dict[str, LayerReport] = {}
    revived: list[Tensor] = []
    experts, fallen = expert_groups(model), list[str]()
    updating = {"keep_zeros": keep_zeros} if chosen.updates_weights else {}
    blocks = [block for block in anatomy.blocks() if any(name in plan for name in block.linears)]

    def note(name: str, weight: Tensor, mask: Tensor) -> None:
        reports[name] = _report(name, anatomy.tower_of(name), weight, mask, plan, keep_zeros)

    def calibrate(layers: Sequence[str], visit: Visit) -> None:
        assert needs is not None
        walk(
            model,
            anatomy,
            share(batches),
            visit,
            lambda _name, linear: needs(linear.in_features, linear.weight.device),
            device,
            layers=layers,
            atv=alpha if tokens == "atv" else None,
            shelf=shelf,
            pass_by=True,
            spill=None if work_dir is None else Path(work_dir),
        )

    dense: list[tuple[Block, dict[str, Statistics]]] = []
    if needs is not None and statistics_of == "dense":
        if shelf is not None:
            raise UsageError(
                "Statistics of the dense model are taken from all of it, and streaming has a block at a time: leave "
                "out one of them."
            )
        with watch.on("calibrate"):
            calibrate(list(plan), lambda block, statistics: dense.append((block, statistics)))

    finished: FinishedBlocks | StreamedWeights | None = streamed
    if finished is None and work_dir is not None:
        finished = FinishedBlocks(work_dir, keeps_weights=chosen.updates_weights)
    if finished is not None:
        recipe = (
            method,
            sorted(options.items()),
            plan.to_dict(),
            seed,
            tokens,
            alpha,
            statistics_of,
            keep_zeros,
        )
        let_go = shelf.let_go if shelf is not None else lambda _weight: None
        contents = _contents(model, () if needs is None else batches, let_go, stored_in)
        finished.claim(fingerprint([repr(recipe), *contents]), force=force)
        masks.update(finished.restore(blocks, modules))
        for name in masks:
            note(name, modules[name].weight, masks[name])
            let_go(modules[name].weight)

    def solve(name: str, weight: Tensor, gathered: Statistics | None) -> tuple[Tensor, Tensor]:
        if gathered is None and device is not None:
            weight = weight.to(device)
        if not torch.isfinite(
            weight.sum(dtype=torch.float32)
        ):  # a sum of numbers that are no numbers is none
            raise RunError(
                f"The weight {name} holds NaN or infinity: its checkpoint is damaged, make or fetch it anew."
            )
        mask, pruned = chosen.apply(weight, gathered, plan[name], name=name, seed=seed, **updating, **options)
        if stored_in is not None and stored_in.itemsize < pruned.itemsize:
            pruned = narrowed(pruned, stored_in).to(pruned.dtype)
        return (mask & (weight != 0) if keep_zeros else mask), pruned

    def visit(block: Block, statistics: dict[str, Statistics]) -> None:
        pruned_here = [
            name for name in block.linears if name in plan and (needs is None or name in statistics)
        ]
        weights = {name: modules[name].weight.detach() for name in pruned_here}
        made = PackedMasks()
        with watch.on("prune"):
            sum_over_processes(statistics)
            fallen.extend(pool_few(statistics, experts))
            for name, mask, pruned in solve_block(weights, statistics, solve):
                note(name, pruned, mask)
                if chosen.updates_weights and not keep_zeros:
                    revived.append(((weights[name] == 0) & (pruned != 0)).sum())
                weights[name].copy_(pruned)
                made.put(name, mask)
                del mask, pruned  # before the next layer takes the memory of its own
            if finished is not None:
                finished.keep(block, weights, made)
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
                if shelf is not None:
                    shelf.put_back(modules[block.name])
        elif statistics_of == "dense":
            with closing(Lender(None if device is None else torch.empty(0, device=device).device)) as lender:
                for block, statistics in dense:
                    if block in remaining:
                        lender.bring(modules[block.name])
                        visit(block, statistics)
                        lender.take_home(modules[block.name], changed=True)
        elif remaining:
            with watch.on("calibrate"):
                calibrate([name for block in remaining for name in block.linears if name in plan], visit)
    carried_out = Plan({name: pattern for name, pattern in plan.items() if name in masks})
    if lacking := [name for name in plan if name not in carried_out]:
        if not carried_out:
            raise never_reached(lacking)
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        warn(
            f"Calibration never reaches the layer '{lacking[0]}'{more}, of which nothing is known: it stays dense."
        )
    if fallen:
        warn(few_tokens(len(fallen), sum(name in plan for name in experts)))
    layers = [reports[name] for name in anatomy.linears() if name in carried_out]
    masks = masks.in_order([layer.name for layer in layers])
    count = sum(int(each) for each in revived)
    if count > WORTH_SAYING * sum(prod(layer.shape) for layer in layers):
        warn(
            f"{count:,} weights that were zero have values now, for {method} updates what it keeps: the model was "
            "sparse already; to leave its zeros zero, prune it with keep_zeros (--keep-zeros)."
        )
    return PruneResult(masks, layers, carried_out, time.perf_counter() - started, count, watch.rounded())


def check_batches(batches: Sequence[Mapping[str, Tensor]]) -> None:
    """Raises UsageError if there are no calibration inputs, or the first, which show what a forward calls, have none
    of an image. Others may be texts alone: the queries of late interaction.
    """
    if not batches:
        raise UsageError("The calibration set is empty: give at least one sample with an image and a text.")
    if not any("pixel_values" in name or "patches" in name for name in batches[0]):
        raise UsageError(
            "The calibration set begins with samples without an image, so nothing would reach the vision tower: "
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
    model: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    let_go: Callable[[Tensor], None],
    stored_in: torch.dtype | None,
) -> Iterator[bytes]:
    """What tells one model and calibration set from another: a sample of every parameter, and all inputs.

    let_go: called when a parameter has been looked at. stored_in: the dtype that wider ones come from, in which they
    are the same wherever they are meanwhile.
    """
    for name, parameter in model.named_parameters():
        yield name.encode()
        if parameter.is_meta or not parameter.numel():
            continue
        weight = parameter.detach()
        rows = (
            weight[[0, len(weight) // 2, -1]] if weight.dim() else weight
        )  # not the whole: it may be on disk
        parts = [rows.reshape(-1)]
        if weight.is_contiguous():
            flat = weight.view(-1)
            parts.append(flat[:: -(-len(flat) // _SAMPLED)])
        for part in parts:
            wider = stored_in is not None and part.is_floating_point() and part.itemsize > stored_in.itemsize
            yield _bytes(part.to(stored_in) if wider else part)
        let_go(parameter)
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
    mask = mask.to(weight.device)
    zeros, masked, asked = count_zeros(weight), mask.numel() - int(mask.sum()), pattern.zeros(weight.shape)
    stray = bool(weight.detach().masked_fill(mask, 0).any())
    if masked < asked or (masked > asked and not more_zeros) or not pattern.verify(mask) or stray:
        raise RunError(
            f"{name} was to get {asked} zeros in the pattern {pattern} and has {zeros} "
            f"({masked} by its mask): this is a defect of the method, please report it."
        )
    return LayerReport(
        name=name, tower=tower, shape=(rows, width), asked=str(pattern), achieved=zeros / weight.numel()
    )
