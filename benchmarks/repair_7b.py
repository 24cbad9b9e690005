"""A repair at LLaVA-1.5-7B's size: block-wise reconstruction of the language tower, then SparseLoRA. Random weights.

    python benchmarks/repair_7b.py             the table, and benchmarks/results/repair_7b.json
    python benchmarks/repair_7b.py --smoke     seconds, on any machine

Both models start in main memory, in bf16, as `ressa repair` loads them, 2:4 in the language tower. 128 samples of 576
image and 64 text tokens; batches and epochs are the defaults of `RepairConfig`. Then 50 SparseLoRA steps of 8 samples
on all towers, with the dense model beside the student as the teacher. Everything is timed from models in memory to
models in memory. The floor of reconstruction is its products alone at the card's dense bf16 rate (--peak): 6 FLOP a
weight and token in training, 2 in each of the passes that ask for errors and outputs. "busy" is the share of the time
in which the GPU computes while a block is fitted.
"""

import argparse
import copy
import time
from pathlib import Path
from typing import Any

import torch
from repair_step import GIB, OneBatch, build, llava, make_batch
from timing import synchronize
from torch import nn
from torch.profiler import ProfilerActivity, profile

from ressa.anatomy import Anatomy, find_anatomy
from ressa.files import write_json
from ressa.provenance import versions
from ressa.repairing.config import RepairConfig
from ressa.repairing.forward import lean_forward
from ressa.repairing.reconstruction import batch_size, reconstruct
from ressa.repairing.student import finish_student, make_student
from ressa.repairing.token_objective import TokenObjective
from ressa.repairing.training import Samples, train
from ressa.repairing.weights import mask_weights, weight_of
from ressa.sparsity import parse_pattern

PASSES = (
    3  # forward passes beside training: the error before and after, and what the next block gets; dense: one
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="JSON (default: benchmarks/results/repair_7b.json)")
    parser.add_argument("--samples", type=int, default=128, help="of the reconstruction")
    parser.add_argument("--epochs", type=int, default=RepairConfig().reconstruct_epochs)
    parser.add_argument("--batch", type=int, help="samples a step (default: the repair's own choice)")
    parser.add_argument("--steps", type=int, default=50, help="of SparseLoRA")
    parser.add_argument(
        "--peak", type=float, default=989, help="TFLOP/s of the card in bf16 (default: H100 SXM)"
    )
    parser.add_argument("--smoke", action="store_true", help="a tiny model, to see that everything runs")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not options.smoke:
        parser.error("this needs a GPU; --smoke runs a tiny model on the CPU")
    if options.smoke:
        options.samples, options.epochs, options.batch, options.steps = 4, 2, 2, 2
    options.batch = options.batch or batch_size(options.samples, options.epochs)
    torch.manual_seed(0)
    shape = llava(options.smoke)
    shape.prompt, shape.answer = 48, 16
    dense = build(shape, device.type).cpu()
    anatomy = find_anatomy(dense)
    pattern = parse_pattern("2:4")
    masks = {}
    for name in anatomy.linears("language"):
        weight = weight_of(dense, name).detach().to(device)
        masks[name] = pattern.select(weight.abs().float()).cpu()
    model = copy.deepcopy(dense)
    mask_weights(model, masks)
    report: dict[str, Any] = {"versions": versions(), "samples": options.samples, "epochs": options.epochs}
    report["reconstruction"] = measure_reconstruction(model, dense, masks, anatomy, shape, options, device)
    report["sparse_lora"] = measure_training(model, dense, masks, anatomy, shape, options, device)
    for name in ("reconstruction", "sparse_lora"):
        print(name, {key: value for key, value in report[name].items() if key != "losses"})
    output = options.output or (None if options.smoke else Path(__file__).parent / "results/repair_7b.json")
    if output:
        write_json(output, report)
        print(f"written: {output}")


def measure_reconstruction(
    model: nn.Module,
    dense: nn.Module,
    masks: Any,
    anatomy: Anatomy,
    shape: Any,
    options: Any,
    device: torch.device,
) -> dict[str, Any]:
    config = RepairConfig(
        method="reconstruct",
        tune=("language",),
        reconstruct_epochs=options.epochs,
        precision="fp32" if device.type == "cpu" else "auto",
    )
    shape.batch = options.batch
    dtype = next(dense.parameters()).dtype
    batches = [make_batch(shape, dtype) for _ in range(options.samples // options.batch)]
    reset(device)
    begun = time.perf_counter()
    blocks = reconstruct(model, dense, masks, anatomy, batches, config, device=device)
    synchronize(device.type)
    seconds = time.perf_counter() - begun
    weights, tokens = sum(mask.numel() for mask in masks.values()), shape.tokens * len(batches)
    work = weights * tokens * (6 * options.epochs + 2 * PASSES + 2)
    found = {
        "seconds": seconds,
        "blocks": len(blocks),
        "tokens": tokens,
        "floor_seconds": work / options.peak / 1e12,
        "tflops": work / seconds / 1e12,
        "error": [sum(b[key] for b in blocks) / len(blocks) for key in ("before", "loss")],
    } | peak(device)
    if device.type == "cuda":
        found["busy"] = busy(model, dense, masks, anatomy, batches, config, device)
    return found


def busy(
    model: nn.Module,
    dense: nn.Module,
    masks: Any,
    anatomy: Anatomy,
    batches: Any,
    config: RepairConfig,
    device: Any,
) -> float:
    """The share of one block's fitting in which kernels ran, by the profiler; the run is cut off behind it."""
    from ressa.repairing import reconstruction

    fit, shares = reconstruction.fit, []

    def watched(*arguments: Any) -> tuple[float, float]:
        if shares:
            raise _Enough
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            torch.cuda.synchronize()
            begun = time.perf_counter()
            found = fit(*arguments)
            torch.cuda.synchronize()
            took = time.perf_counter() - begun
        shares.append(sum(event.self_device_time_total for event in seen.key_averages()) / 1e6 / took)
        return found

    reconstruction.fit = watched
    try:
        reconstruct(model, dense, masks, anatomy, batches, config, device=device)
    except _Enough:
        pass
    finally:
        reconstruction.fit = fit
    return min(shares[0], 1.0)


class _Enough(Exception):
    pass


def measure_training(
    model: nn.Module,
    dense: nn.Module,
    masks: Any,
    anatomy: Anatomy,
    shape: Any,
    options: Any,
    device: torch.device,
) -> dict[str, Any]:
    shape.batch = 2 if options.smoke else 8
    config = RepairConfig(
        batch_size=shape.batch,
        steps=options.steps,
        checkpoints=0,
        precision="fp32" if device.type == "cpu" else "auto",
    )
    batch = make_batch(shape, next(dense.parameters()).dtype)
    loader = OneBatch(batch, shape.encoder_decoder, device.type)
    samples = Samples([None] * (shape.batch * options.steps))  # type: ignore[list-item]
    reset(device)
    begun = time.perf_counter()
    with lean_forward(model):
        student = make_student(model, masks, anatomy, config, dense_weights=False)
        objective = TokenObjective(loader, config)  # type: ignore[arg-type]
        curve = train(student, dense, anatomy, samples, objective, config)
        finish_student(student, masks, config)
    synchronize(device.type)
    seconds = time.perf_counter() - begun
    steps = [end - start for start, end in zip(loader.times, loader.times[1:], strict=False)]
    return {
        "seconds": seconds,
        "steps": options.steps,
        "seconds_a_step": sorted(steps)[len(steps) // 2],
        "tokens_a_step": shape.tokens,
        "losses": [entry["loss"] for entry in curve],
    } | peak(device)


def reset(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()


def peak(device: torch.device) -> dict[str, float]:
    return {"peak_gib": torch.cuda.max_memory_allocated() / GIB} if device.type == "cuda" else {}


if __name__ == "__main__":
    main()
