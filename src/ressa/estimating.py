"""What pruning or repairing a model will take, worked out from shapes: nothing of its weights is read.

Counts of bytes and of floating-point operations are exact up to what is named here as left out; seconds divide them
by what this device does of a plain matrix product, measured for a moment, and are right within a factor of two or so.
"""

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import torch
from torch import nn

from ressa.anatomy import Anatomy
from ressa.calibration.statistics import Hessian, Statistics
from ressa.sparsity import Plan

TEXT_TOKENS = 64  # of a sample's prompt and answer: what VQA and captions come to
PATCHES = 576  # of an image where the config does not say: 336 × 336 pixels in patches of 14 × 14
H100 = 6.5e14  # operations a second of bf16 products, measured
DISK = 1e9  # bytes a second, read or written: an ordinary NVMe disk
_REACHED = 0.5  # share of a plain matrix product's speed that a model's forward comes to
_SOLVED = 0.1  # … and that factorisations and sweeps over columns come to
_CHOSEN = {"cpu": 2e7, "cuda": 2e9}  # weights a second that are ranked and masked


@dataclass(frozen=True)
class Outline:
    """A model's shapes. size: bytes of all weights. block: bytes of the largest block. hidden: tower → width of its
    hidden states. tokens: tower → positions of one sample. shapes: layer → (out, in). homes: layer → (tower, block).
    """

    size: int
    block: int
    itemsize: int
    hidden: dict[str, int]
    tokens: dict[str, int]
    shapes: dict[str, tuple[int, int]]
    homes: dict[str, tuple[str, str]]

    def weights(self, tower: str | None = None) -> int:
        """The number of weights in the prunable layers, of one tower or of all."""
        return sum(prod(shape) for name, shape in self.shapes.items() if tower in (None, self.homes[name][0]))

    def forward(self, samples: int) -> float:
        """Operations of a forward of so many samples through all blocks; attention's own are left out."""
        return sum(2.0 * self.weights(tower) * tokens * samples for tower, tokens in self.tokens.items())

    def activations(self, samples: int) -> int:
        """Bytes of what a tower's block is given and gives, of all samples; of the tower where that is most."""
        return max(
            2 * samples * tokens * self.hidden[tower] * self.itemsize for tower, tokens in self.tokens.items()
        )


def outline(model: nn.Module, anatomy: Anatomy) -> Outline:
    """model: may be on the meta device."""
    modules: dict[str, Any] = dict(model.named_modules())
    config: Any = model.config
    blocks = {
        block.name: sum(p.nbytes for p in modules[block.name].parameters()) for block in anatomy.blocks()
    }
    homes = {
        name: (tower, block.name)
        for tower in anatomy.towers
        for block in anatomy.blocks(tower)
        for name in block.linears
    }
    found = _tokens(config)
    return Outline(
        size=sum(parameter.nbytes for parameter in model.parameters()),
        block=max(blocks.values()),
        itemsize=next(model.parameters()).itemsize,
        hidden={tower: modules[anatomy.linears(tower)[0]].in_features for tower in anatomy.towers},
        tokens={tower: found[tower] for tower in anatomy.towers},
        shapes={name: tuple(modules[name].weight.shape) for name in homes},
        homes=homes,
    )


def _tokens(config: Any) -> dict[str, int]:
    """Tower → positions of one sample with one image."""
    vision = getattr(config, "vision_config", config)
    size, patch = (_side(getattr(vision, name, None)) for name in ("image_size", "patch_size"))
    patches = (size // patch) ** 2 if size and patch else PATCHES
    names = ("num_query_tokens", "mm_tokens_per_image", "image_seq_length")
    image = next((found for name in names if (found := getattr(config, name, None))), patches)
    return {"vision": patches, "connector": max(patches, image), "language": image + TEXT_TOKENS}


def _side(size: Any) -> int | None:
    if isinstance(size, dict):
        size = next(iter(size.values()))
    return size[0] if isinstance(size, list | tuple) else size


@dataclass(frozen=True)
class Estimate:
    """memory: what for → bytes, all at once. seconds: what for → seconds. read, written: bytes on disk."""

    read: int
    written: int
    memory: dict[str, int]
    seconds: dict[str, float]


def estimate_pruning(
    shape: Outline,
    plan: Plan,
    statistics: type[Statistics] | None,
    *,
    updates: bool,
    samples: int,
    speed: float,
    device: str,
) -> Estimate:
    """statistics: what the method needs, None for none. updates: whether it changes the weights it keeps. speed:
    operations a second of a matrix product on the device, a kind such as "cuda"."""
    inputs: dict[tuple[str, int], str] = {}  # linears of one block and width share their input, by and large
    for name in plan:
        inputs.setdefault((shape.homes[name][1], shape.shapes[name][1]), shape.homes[name][0])
    pruned = sum(prod(shape.shapes[name]) for name in plan)
    grams = 0.0
    if statistics is Hessian:
        grams = sum(2.0 * width**2 * shape.tokens[tower] * samples for (_, width), tower in inputs.items())
    solved = 0.0
    if updates:
        solved = sum(2.0 * width**3 for _, width in inputs) + sum(
            float(shape.shapes[name][0]) * shape.shapes[name][1] ** 2 for name in plan
        )
    each = [0 if statistics is None else statistics.size(width) for _, width in inputs]
    most = max((_of_block(inputs, each, block) for block, _ in inputs), default=0)
    calibrate = 0.0 if statistics is None else (2 * shape.forward(samples) + grams) / (speed * _REACHED)
    return Estimate(
        read=shape.size,
        written=shape.size + pruned // 8,
        memory={
            "weights": shape.size,
            "the largest block": shape.block,
            "activations": 0 if statistics is None else shape.activations(samples),
            "statistics of a block": most,
        },
        seconds={
            "load": shape.size / DISK,
            "calibrate": calibrate,
            "prune": solved / (speed * _SOLVED) + pruned / _CHOSEN.get(device, _CHOSEN["cpu"]),
            "save": 2 * shape.size / DISK,  # written, and read back to be counted
        },
    )


def _of_block(inputs: Mapping[tuple[str, int], str], sizes: list[int], block: str) -> int:
    return sum(size for (name, _), size in zip(inputs, sizes, strict=True) if name == block)


def estimate_repair(
    shape: Outline, ranks: Mapping[str, int], *, samples: int, steps: int, batch: int, reconstructed: int,
    epochs: int, teacher: bool, speed: float,
) -> Estimate:  # fmt: skip
    """ranks: tower → LoRA's rank. steps: of training, each of `batch` samples. reconstructed: samples of the block-wise
    reconstruction, 0 for none, seen `epochs` times. teacher: whether a dense model is in memory beside."""
    trained = trainable(shape, ranks)
    models = 2 if teacher else 1
    forward = shape.forward(1)
    # Forward, teacher's forward, gradients of inputs, and the weight gradient that SparseLoRA's A and B come from.
    training = steps * batch * forward * (4 if teacher else 3)
    # The dense block once, the pruned block and its gradients once an epoch.
    rebuilding = reconstructed * forward * (1 + 3 * epochs)
    largest = shape.block // shape.itemsize
    return Estimate(
        read=models * shape.size,
        written=shape.size,
        memory={
            "weights": models * shape.size,
            "LoRA, its gradients and AdamW": 16 * trained,
            "a block that is reconstructed, its gradients and AdamW": 16 * largest if reconstructed else 0,
            "activations": max(
                shape.activations(batch) * len({home[1] for home in shape.homes.values()}) // 2,
                2 * shape.activations(reconstructed),
            ),
        },
        seconds={
            "load": models * shape.size / DISK,
            "reconstruct": rebuilding / (speed * _REACHED),
            "train": training / (speed * _REACHED),
            "save": 2 * shape.size / DISK,
        },
    )


def estimate_evaluation(
    shape: Outline, *, prompts: int, pairs: int, tokens: int, batch: int, beams: int, speed: float
) -> Estimate:
    """prompts: answered in so many tokens each. pairs: of image and caption, whose likelihood retrieval takes."""
    language = 2.0 * shape.weights("language")
    asked = prompts * (shape.forward(1) + beams * tokens * language)
    compared = pairs * language * TEXT_TOKENS
    blocks = len({home for home in shape.homes.values() if home[0] == "language"})
    positions = shape.tokens["language"] + tokens
    return Estimate(
        read=shape.size,
        written=0,
        memory={
            "weights": shape.size,
            "activations": shape.activations(batch),
            "keys and values": 2
            * batch
            * beams
            * positions
            * shape.hidden["language"]
            * blocks
            * shape.itemsize,
        },
        seconds={
            "load": shape.size / DISK,
            "answer": asked / (speed * _REACHED),
            "compare": compared / (speed * _REACHED),
        },
    )


def trainable(shape: Outline, ranks: Mapping[str, int]) -> int:
    """The number of weights in LoRA's A (rank, in) and B (out, rank) of every layer."""
    return sum(
        ranks.get(shape.homes[name][0], 0) * (rows + width) for name, (rows, width) in shape.shapes.items()
    )


def steps_of(samples: int, epochs: float, batch: int) -> int:
    """Training steps."""
    return ceil(samples * epochs / batch)


@functools.cache
@torch.no_grad()
def product_speed(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """Operations a second of a matrix product, measured for so long."""
    width = 8192 if device.type == "cuda" else 1024
    a = torch.ones(width, width, dtype=dtype, device=device)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    a @ a
    wait()
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        a @ a
        wait()
        count += 1
    return count * 2 * width**3 / (time.perf_counter() - started)
