"""What a model's forward takes, of whichever kind the model is."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ressa.data.batcher import Batcher
from ressa.data.pairs import PairBatcher
from ressa.data.sample import Sample, seeing_first
from ressa.dual.structure import is_dual_encoder

if TYPE_CHECKING:
    from ressa.checkpoint import Vlm

_POSITIONS = (
    8192  # of a batch: enough to keep any GPU busy, and what a block makes of them is a gigabyte at 7B
)
_MOST = 128
_MOST_ON_A_CPU = 16


def batch_size_for(
    vlm: "Vlm", samples: Sequence[Sample], device: torch.device, positions: int = _POSITIONS
) -> int:
    """How many samples to calibrate on at a time: so many that they come to `positions`. It depends on what is asked
    of the device, not on what it has free, so that the same run gives the same masks."""
    batcher = batcher_of(vlm)
    made = (batcher.forwards([sample])[0] for sample in samples[:8])
    length = max(each["input_ids" if "input_ids" in each else "labels"].shape[1] for each in made)
    most = _MOST_ON_A_CPU if device.type == "cpu" else _MOST
    return max(1, min(most, positions // length, len(samples)))


def batches(vlm: "Vlm", samples: Sequence[Sample], batch_size: int = 16) -> list[dict[str, Tensor]]:
    """What a model's forward takes, for `ressa.prune` to calibrate on: images, prompts and targets as tensors.

    The targets are there so that both halves of an encoder-decoder see text; see `Batcher.training`. A dual encoder is
    given pictures and targets, as many forwards as it takes for both (`PairBatcher.forwards`).
    Raises UsageError for a sample without a target that needs one.
    """
    batcher, samples = batcher_of(vlm), seeing_first(samples)
    starts = range(0, len(samples), batch_size)
    return [inputs for start in starts for inputs in batcher.forwards(samples[start : start + batch_size])]


def batcher_of(vlm: "Vlm") -> "Batcher | PairBatcher":
    """What makes a model's inputs: of prompts and answers, or of pairs for one that embeds them or writes nothing."""
    if is_dual_encoder(vlm.model, vlm.processor) or not vlm.model.can_generate():
        return PairBatcher(vlm.model, vlm.processor)
    return Batcher(vlm.processor, vlm.model.config, getattr(vlm.model, "generation_config", None))
