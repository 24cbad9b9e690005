"""Block-wise reconstruction: each block learns, without labels, to give what the dense block gives.

"A Free Lunch in LLM Compression" (arXiv 2510.14444): after pruning, one part of the model at a time is
trained on a small calibration set to match the dense model's activations there. Here the part is a
transformer block; its inputs come from the repaired blocks before it, its targets from the dense model on the
same samples.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ressa import progress
from ressa.anatomy import Anatomy
from ressa.calibration.capture import Call, capture, leaves, map_leaves
from ressa.calibration.feed import Feed, Step
from ressa.calibration.padding import Kept
from ressa.errors import RunError
from ressa.files import write_json
from ressa.processes import is_first
from ressa.repair.config import RepairConfig
from ressa.repair.masked_linear import apply_masks, bake_masks
from ressa.repair.weights import Masks, restored, weight_of

Batch = Mapping[str, Tensor]


def reconstruct(
    model: nn.Module,
    dense: nn.Module,
    masks: Masks,
    anatomy: Anatomy,
    batches: Sequence[Batch],
    config: RepairConfig,
    *,
    device: torch.device | None = None,
    work_dir: Path | None = None,
) -> list[dict[str, Any]]:
    """Fit the kept weights of every block of the tuned towers, in place and in the order of a forward.

    batches: model inputs; labels serve only as the decoder's inputs. device: where a block computes (default:
    where it lives). work_dir: finished blocks are kept there, and a run that goes on skips them.

    Returns for each block its name and its error ‖y − y_dense‖² / ‖y_dense‖² before and after. A block that
    training brings no nearer keeps its weights. Raises RunError when an error is no longer a number.
    """
    tuned = {name for tower in config.tune if tower in anatomy.towers for name in anatomy.linears(tower)}
    feed, goal = Feed(model, anatomy, device), Feed(dense, anatomy, device)
    history: list[dict[str, Any]] = []
    with feed.ready(), goal.ready(), torch.no_grad():
        steps = [step for step in feed.steps(batches[0]) if tuned & set(step.block.linears)]
        with progress.bar("Reconstructing blocks", len(steps)) as bar:
            for number, step in enumerate(steps):
                layers = [name for name in step.block.linears if name in tuned]
                done = work_dir / "reconstruction" / str(number) if work_dir else None
                entry = _resume(model, done)
                if entry is None:
                    examples = [e for batch in batches for e in _examples(feed, goal, batch, step)]
                    own = {name: mask for name, mask in masks.items() if name in layers}
                    order = torch.Generator().manual_seed(config.seed + number)
                    entry = _fit(model, step, layers, own, examples, config, device, order)
                    _keep(model, layers, done, entry)
                history.append(entry)
                bar.advance()
    return history


Example = tuple[Call, Tensor, Tensor | None]  # how a block is called, what it should give, where that counts


def _fit(
    model: nn.Module,
    step: Step,
    layers: Sequence[str],
    masks: Masks,
    examples: Sequence[Example],
    config: RepairConfig,
    device: torch.device | None,
    generator: torch.Generator,
) -> dict[str, Any]:
    """Train the kept weights of one block in float32; AdamW, cosine to a tenth of the rate."""
    original = model.get_submodule(step.block.name)
    with restored(original):
        original.float().to(device).requires_grad_(False)
        place = next(original.parameters()).device
        apply_masks(model, masks)
        block = model.get_submodule(step.block.name)  # a block may be a single linear
        weights = [weight_of(model, name).requires_grad_(True) for name in layers]
        optimizer = torch.optim.AdamW(weights, lr=config.reconstruct_rate, weight_decay=config.weight_decay)
        total = config.reconstruct_epochs * len(examples)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total, config.reconstruct_rate / 10)
        try:
            start = [weight.detach().clone() for weight in weights]
            before = sum(_error(block, example, place).item() for example in examples) / len(examples)
            with torch.enable_grad():
                for _ in range(config.reconstruct_epochs):
                    for index in torch.randperm(len(examples), generator=generator).tolist():
                        _error(block, examples[index], place).backward()
                        if config.max_grad_norm:
                            nn.utils.clip_grad_norm_(weights, config.max_grad_norm)
                        optimizer.step()
                        optimizer.zero_grad()
                        schedule.step()
            after = sum(_error(block, example, place).item() for example in examples) / len(examples)
            finite = after < float("inf")
            if not after <= before:
                after = before
                for weight, old in zip(weights, start, strict=True):
                    weight.copy_(old)
        finally:
            bake_masks(model)
    if not finite:
        raise RunError(f"Reconstruction of {step.block.name} diverged: lower reconstruct_rate.")
    return {"block": step.block.name, "before": before, "loss": after}


def _error(block: nn.Module, example: Example, device: torch.device) -> Tensor:
    """‖y − y_dense‖² / ‖y_dense‖² over the positions that count."""
    call, target, kept = example
    call = call.to(device)
    args, kwargs = (map_leaves(given, _as_float32) for given in (call.args, call.kwargs))
    output = _hidden(block(*args, **kwargs))
    target = target.to(device).float()
    if kept is not None:
        output, target = output[kept.to(device)], target[kept.to(device)]
    return (output - target).square().sum() / target.square().sum().clamp_min(1e-12)


def _as_float32(leaf: Any) -> Any:
    return leaf.float() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def _hidden(output: Any) -> Tensor:
    """The hidden states among what a block returns: the first floating-point tensor."""
    return next(leaf for _, leaf in leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point())


def _examples(feed: Feed, goal: Feed, batch: Batch, step: Step) -> list[Example]:
    """Every call of the block on a batch: inputs from the blocks before it as they are now, and targets."""
    block, once = feed.blocks[step.block.name], step.calls == 1
    calls = capture(partial(feed.forward, batch), [block], once=once)[0]
    targets = _outputs(goal, batch, goal.blocks[step.block.name], once=once)
    reads_text = step.tower == "language" and not step.chain.reads_labels
    mask = batch.get("attention_mask") if reads_text else None
    labels = batch.get("labels") if step.chain.reads_labels else None
    kept = [None if step.tower == "vision" else Kept(block, call, mask, labels).positions for call in calls]
    return list(zip(calls, targets, kept, strict=True))


class _Enough(Exception):
    """The block has given what it gives; nothing of the rest of the forward is needed."""


def _outputs(goal: Feed, batch: Batch, block: nn.Module, *, once: bool) -> list[Tensor]:
    """What the dense block gives on a batch, one tensor a call."""
    found: list[Tensor] = []

    def record(_module: nn.Module, _args: Any, output: Any) -> None:
        found.append(_hidden(output).detach().clone())
        if once:
            raise _Enough

    handle = block.register_forward_hook(record)
    try:
        with suppress(_Enough):
            goal.forward(batch)
    finally:
        handle.remove()
    return found


def _keep(model: nn.Module, layers: Sequence[str], path: Path | None, entry: dict[str, Any]) -> None:
    """Save what a block has become; the JSON file comes last and says that the weights are complete."""
    if path is not None and is_first():
        path.parent.mkdir(parents=True, exist_ok=True)
        weights = {name: weight_of(model, name).detach().contiguous() for name in layers}
        save_file(weights, path.with_suffix(".safetensors"))
        write_json(path.with_suffix(".json"), entry)


def _resume(model: nn.Module, path: Path | None) -> dict[str, Any] | None:
    """Give a block the weights that an earlier run found, and return its entry; None if there are none."""
    if path is None or not path.with_suffix(".json").is_file():
        return None
    for name, saved in load_file(path.with_suffix(".safetensors")).items():
        weight = weight_of(model, name)
        weight.data = saved.to(weight.device, weight.dtype)
    return json.loads(path.with_suffix(".json").read_text())
