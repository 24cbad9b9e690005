"""Block-wise reconstruction: each block learns, without labels, to give what the dense block gives.

"A Free Lunch in LLM Compression" (arXiv 2510.14444): after pruning, one part of the model at a time is
trained on a small calibration set to match the dense model's activations there. Here the part is a
transformer block; its inputs come from the repaired blocks before it, its targets from the dense model on the
same samples.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ressa import progress
from ressa.anatomy import Anatomy
from ressa.calibration.feed import Batch, Feed, Step
from ressa.calibration.turns import Turn, turns
from ressa.checkpoint.kept import keep_tensors, kept_tensors
from ressa.data.sample import Sample, seeing_first
from ressa.errors import RunError
from ressa.processes import is_first
from ressa.repairing.checkpoints import RECONSTRUCTION
from ressa.repairing.config import RepairConfig
from ressa.repairing.fitting import Examples, fit
from ressa.repairing.objective import Batches
from ressa.repairing.weights import Masks, weight_of

SMALLEST, LARGEST, STEPS = 8, 32, 128


def reconstruction_batches(
    batcher: Batches, samples: Sequence[Sample], config: RepairConfig
) -> list[dict[str, Tensor]]:
    """Model inputs of the first of the samples: as many as the config asks for, or as its tokens allow."""
    most, samples = min(config.reconstruct_samples, len(samples)), seeing_first(samples)
    size = config.reconstruct_batch_size or batch_size(most, config.reconstruct_epochs)
    batches: list[dict[str, Tensor]] = []
    tokens = 0
    for start in range(0, most, size):
        if tokens >= config.reconstruct_tokens:
            break
        made = batcher.forwards(samples[start : min(start + size, most)])
        batches += made
        tokens += sum(map(_tokens, made))
    return batches


def batch_size(samples: int, epochs: int) -> int:
    """32 samples a step, and fewer, down to 8, where that would be less than 128 steps: with little data more steps
    bring back more (docs/results.md), and a step of 8 still fills a GPU where blocks are large."""
    return min(LARGEST, max(SMALLEST, samples * epochs // STEPS))


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
    where it lives). work_dir: finished blocks are kept there, and a run that goes on skips them. What a tower's
    blocks will cost is said as soon as the first of them has taken two steps.

    Returns for each block its name and its error ‖y − y_dense‖² / ‖y_dense‖² before and after. A block that
    training brings no nearer keeps its weights. Raises RunError when an error is no longer a number.
    """
    tuned = {name for tower in config.tune if tower in anatomy.towers for name in anatomy.linears(tower)}
    feed, goal = (Feed(each, anatomy, device, spill=work_dir) for each in (model, dense))
    history: list[dict[str, Any]] = []
    with feed.ready(), goal.ready(), torch.no_grad(), ExitStack() as stack:
        steps = feed.steps(batches[0])
        ours, theirs = (
            stack.enter_context(closing(turns(each, batches, steps, tuned))) for each in (feed, goal)
        )
        fitted = [step for step in steps if tuned & set(step.block.linears)]
        bar = stack.enter_context(progress.bar("Reconstructing blocks", len(fitted)))
        kept = stack.enter_context(_Finished(model, work_dir))
        if there := kept.count():
            progress.say(
                f"An earlier run reconstructed {there} of {len(fitted)} blocks: going on from there."
            )
        told: set[int] = set()
        for number, (turn, wanted) in enumerate(zip(ours, theirs, strict=True)):
            layers = [name for name in turn.step.block.linears if name in tuned]
            entry = kept.restore(number)
            if entry is None:
                announce = None
                if id(turn.step.chain) not in told:
                    told.add(id(turn.step.chain))
                    ahead = [step for step in fitted[number:] if step.chain is turn.step.chain]
                    announce = _announcing(ahead, batches, config)
                own = {name: mask for name, mask in masks.items() if name in layers}
                entry = _reconstruct(model, turn, wanted, layers, own, batches, config, number, announce)
                kept.keep(number, layers, entry)
            history.append(entry)
            bar.advance()
    return history


def _reconstruct(
    model: nn.Module,
    turn: Turn,
    wanted: Turn,
    layers: Sequence[str],
    masks: Masks,
    batches: Sequence[Batch],
    config: RepairConfig,
    number: int,
    announce: Callable[[float], None] | None,
) -> dict[str, Any]:
    """Fit one block; nothing of its examples is left afterwards."""
    examples = Examples(turn, wanted, batches)
    generator = torch.Generator().manual_seed(config.seed + number)
    before, after = fit(model, turn.block, layers, masks, examples, config, generator, announce)
    if not after < float("inf"):
        raise RunError(f"Reconstruction of {turn.step.block.name} diverged: lower reconstruct_rate.")
    return {"block": turn.step.block.name, "before": before, "loss": after}


def _tokens(batch: Batch) -> int:
    """The words of a batch, or those of its answers where it has no others."""
    mask = batch.get("attention_mask", batch.get("decoder_attention_mask"))
    return batch["input_ids"].numel() if mask is None else int(mask.sum())


def _announcing(
    ahead: Sequence[Step], batches: Sequence[Batch], config: RepairConfig
) -> Callable[[float], None]:
    """Says, once a step has been timed, what the blocks of a chain will take."""
    samples = sum(len(next(iter(batch.values()))) for batch in batches)
    steps = config.reconstruct_epochs * sum(len(batches) * step.calls for step in ahead)

    def announce(seconds: float) -> None:
        blocks = f"{len(ahead)} block{'s' if len(ahead) > 1 else ''}"
        if is_first():
            progress.say(
                f"Reconstructing {blocks} of the {ahead[0].tower} tower: {samples} samples, "
                f"{config.reconstruct_epochs} epochs, {seconds:.3f} s a step, "
                f"about {_duration(seconds * steps)} in all."
            )

    return announce


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


class _Finished:
    """Blocks that are done, kept in a work folder, one file each; written by a thread while the next block is on."""

    def __init__(self, model: nn.Module, work_dir: Path | None) -> None:
        self.model = model
        self.folder = work_dir / RECONSTRUCTION if work_dir else None
        self.writer = ThreadPoolExecutor(1)
        self.writing: Future[None] | None = None

    def __enter__(self) -> "_Finished":
        return self

    def __exit__(self, *_: Any) -> None:
        self.writer.shutdown()
        self._written()

    def keep(self, number: int, layers: Sequence[str], entry: dict[str, Any]) -> None:
        """Save what a block has become."""
        if self.folder is None or not is_first():
            return
        weights = {name: weight_of(self.model, name).detach().to("cpu", copy=True) for name in layers}
        self._written()
        self.writing = self.writer.submit(keep_tensors, self._path(number), weights, entry=entry)

    def count(self) -> int:
        """How many blocks an earlier run has left."""
        return len(list(self.folder.glob("*.safetensors"))) if self.folder and is_first() else 0

    def restore(self, number: int) -> dict[str, Any] | None:
        """Give a block the weights that an earlier run found, if they are there and whole, and return its entry."""
        kept = kept_tensors(self._path(number)) if self.folder else None
        if kept is None:
            return None
        tensors, note = kept
        for name, saved in tensors.items():
            weight = weight_of(self.model, name)
            weight.data = saved.to(weight.device, weight.dtype)
        return note["entry"]

    def _path(self, number: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{number}.safetensors"

    def _written(self) -> None:
        """Wait for what is being written; raises what went wrong with it."""
        if self.writing is not None:
            writing, self.writing = self.writing, None
            writing.result()
