"""Where a model's weights are while it is pruned: on the GPU, in host memory, or on disk."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import torch
from torch import nn

from ressa.checkpoint.loading import Vlm
from ressa.checkpoint.saving import size_of
from ressa.checkpoint.streaming import StreamedWeights
from ressa.device import host_memory
from ressa.errors import UsageError
from ressa.warned import warn

_MOVERS = 8  # threads: reading from disk and copying to a GPU overlap
_SPARE = 2 << 30  # bytes of a GPU for statistics and a block at work, beside the model and half as much again


def place_weights(
    vlm: Vlm,
    layers: Sequence[str],
    device: torch.device,
    work: Path,
    *,
    stream: bool | None,
    widens: bool,
    updates: bool,
) -> StreamedWeights | None:
    """Move a model, as `load` gives it on the CPU, to where it is pruned fastest.

    layers: those that will be pruned. device: where blocks compute. work: the output's shards grow beneath it.
    stream: True for weights that stay on disk, False for none, None where neither the device nor the host's
    memory holds the model. widens: whether weights of half precision compute in float32 there (`fast_dtype`).
    updates: whether the method changes the weights that it keeps. Those of finished blocks are then written at once
    where they stay, as far as the model's form allows, whether or not it is in memory meanwhile.
    Returns those shards, if any. Raises UsageError if the model is to be streamed and cannot be.
    """
    size = size_of(vlm.model)
    on_gpu = device.type == "cuda" and 1.5 * size + _SPARE <= torch.cuda.mem_get_info(device)[0]
    in_memory = on_gpu or size * (2 if widens else 1) <= 0.8 * host_memory()
    resident = not stream and (stream is False or in_memory)

    def shards() -> StreamedWeights:
        if vlm.folder is None:
            raise UsageError("A model that was made in memory cannot be streamed: save it first.")
        return StreamedWeights(
            vlm.model,
            layers,
            vlm.folder,
            work / "streamed",
            computes_in=torch.float32 if widens else None,
            resident=resident,
        )

    made: StreamedWeights | None = None
    try:
        if updates or not resident:
            made = shards()  # before anything is moved, for it is told by their addresses where weights lie
    except UsageError as reason:
        if stream:
            raise
        if not resident:
            warn(f"The model may not fit into memory, and it is pruned there nevertheless. {reason}")
    if resident and on_gpu:
        move(vlm.model, device)
    return made


def move(model: nn.Module, device: torch.device) -> None:
    """Move every tensor of a model to a device, several at a time."""
    device = torch.empty(
        0, device=device
    ).device  # which GPU a bare "cuda" is, that is told to this thread alone
    tensors = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}.values()

    def send(tensor: torch.Tensor) -> None:
        tensor.data = tensor.data.to(device)

    with ThreadPoolExecutor(_MOVERS) as pool:
        for _ in pool.map(send, tensors):
            pass
