"""Block-wise reconstruction: each block learns, without labels, to give what the dense block gives.

"A Free Lunch in LLM Compression" (arXiv 2510.14444): after pruning, one part of the model at a time is
trained on a small calibration set to match the dense model's activations there. Here the part is a
transformer block; its inputs come from the repaired blocks before it, its targets from the dense model on the
same samples.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ressa import progress
from ressa.anatomy import Anatomy
from ressa.calibration.capture import Call, leaves, map_leaves
from ressa.calibration.feed import Feed, Step
from ressa.calibration.turns import Turn, turns
from ressa.errors import RunError
from ressa.fast_dtype import means_bf16
from ressa.files import write_json
from ressa.processes import is_first
from ressa.repairing.checkpoints import RECONSTRUCTION, checksum, read_json
from ressa.repairing.config import RepairConfig
from ressa.repairing.masked_linear import apply_masks, bake_masks
from ressa.repairing.weights import Masks, restored, weight_of
from ressa.warned import warn

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
    with feed.ready(), goal.ready(), torch.no_grad(), ExitStack() as stack:
        steps = feed.steps(batches[0])
        ours, theirs = (
            stack.enter_context(closing(turns(each, batches, steps, tuned))) for each in (feed, goal)
        )
        number_of_turns = sum(bool(tuned & set(step.block.linears)) for step in steps)
        bar = stack.enter_context(progress.bar("Reconstructing blocks", number_of_turns))
        for number, (turn, wanted) in enumerate(zip(ours, theirs, strict=True)):
            layers = [name for name in turn.step.block.linears if name in tuned]
            done = work_dir / RECONSTRUCTION / str(number) if work_dir else None
            entry = _resume(model, done)
            if entry is None:
                examples = _examples(turn, wanted, batches)
                own = {name: mask for name, mask in masks.items() if name in layers}
                order = torch.Generator().manual_seed(config.seed + number)
                entry = _fit(model, turn.step, layers, own, examples, config, device, order)
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
    """Train the kept weights of one block, held in float32; AdamW, cosine to a tenth of the rate."""
    original = model.get_submodule(step.block.name)
    with restored(original):
        original.float().to(device).requires_grad_(False)
        place = next(original.parameters()).device
        bf16 = means_bf16(config.precision, place)
        apply_masks(model, masks)
        block = model.get_submodule(step.block.name)  # a block may be a single linear
        weights = [weight_of(model, name).requires_grad_(True) for name in layers]
        optimizer = torch.optim.AdamW(weights, lr=config.reconstruct_rate, weight_decay=config.weight_decay)
        total = config.reconstruct_epochs * len(examples)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total, config.reconstruct_rate / 10)
        try:
            start = [weight.detach().clone() for weight in weights]
            before = sum(_error(block, example, place, bf16).item() for example in examples) / len(examples)
            with torch.enable_grad():
                for _ in range(config.reconstruct_epochs):
                    for index in torch.randperm(len(examples), generator=generator).tolist():
                        _error(block, examples[index], place, bf16).backward()
                        if config.max_grad_norm:
                            nn.utils.clip_grad_norm_(weights, config.max_grad_norm)
                        optimizer.step()
                        optimizer.zero_grad()
                        schedule.step()
            after = sum(_error(block, example, place, bf16).item() for example in examples) / len(examples)
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


def _error(block: nn.Module, example: Example, device: torch.device, bf16: bool) -> Tensor:
    """‖y − y_dense‖² / ‖y_dense‖² over the positions that count; the block runs under autocast where bf16."""
    call, target, kept = example
    call = call.to(device)
    args, kwargs = (map_leaves(given, _as_float32) for given in (call.args, call.kwargs))
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        output = _hidden(block(*args, **kwargs)).float()
    target = target.to(device).float()
    if kept is not None:
        output, target = output[kept.to(device)], target[kept.to(device)]
    return (output - target).square().sum() / target.square().sum().clamp_min(1e-12)


def _as_float32(leaf: Any) -> Any:
    return leaf.float() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def _hidden(output: Any) -> Tensor:
    """The hidden states among what a block returns: the first floating-point tensor."""
    return next(leaf for _, leaf in leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point())


def _examples(turn: Turn, wanted: Turn, batches: Sequence[Batch]) -> list[Example]:
    """Every call of a block: inputs from the blocks before it as they are now, and what the dense block gives."""
    examples: list[Example] = []
    for batch, calls, outputs in zip(batches, turn.calls, wanted.give(), strict=True):
        for call, output in zip(calls, outputs, strict=True):
            kept = turn.kept(call, batch)
            examples.append((call, _hidden(output), None if kept is None else kept.positions))
    return examples


def _keep(model: nn.Module, layers: Sequence[str], path: Path | None, entry: dict[str, Any]) -> None:
    """Save what a block has become; the JSON file comes last, seals the weights and so says that they are complete."""
    if path is not None and is_first():
        path.parent.mkdir(parents=True, exist_ok=True)
        weights = {name: weight_of(model, name).detach().contiguous() for name in layers}
        file = path.with_suffix(".safetensors")
        save_file(weights, file)
        write_json(path.with_suffix(".json"), {"entry": entry, "weights": checksum(file)})


def _resume(model: nn.Module, path: Path | None) -> dict[str, Any] | None:
    """Give a block the weights that an earlier run found, if they are whole, and return its entry; else None."""
    if path is None or not path.with_suffix(".json").is_file():
        return None
    file, kept = path.with_suffix(".safetensors"), read_json(path.with_suffix(".json"))
    if not isinstance(kept, dict) or checksum(file) != kept.get("weights"):
        warn(f"What {file} holds of a reconstructed block is damaged: the block is reconstructed again.")
        return None
    for name, saved in load_file(file).items():
        weight = weight_of(model, name)
        weight.data = saved.to(weight.device, weight.dtype)
    return kept["entry"]
