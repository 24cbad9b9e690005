"""`ressa bench`: a sparse model's speed and memory, dense and packed."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ressa.checkpoint import find
from ressa.commands.inputs import find_dtype
from ressa.commands.outcome import Outcome
from ressa.errors import UsageError
from ressa.report import Table
from ressa.runtime.format import is_packed

if TYPE_CHECKING:
    from ressa.runtime.bench import Speed
    from ressa.runtime.linear import Mode

PROMPT = "Describe what is in the picture."
TUNED_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)


def bench_model(
    model: str,
    *,
    batch_sizes: Sequence[int] = (1,),
    new_tokens: int = 32,
    rounds: int = 3,
    prompt: str = PROMPT,
    mode: "Mode" = "auto",
    static: bool = False,
    dtype: str = "auto",
    device: str = "auto",
    tune: bool = False,
) -> Outcome:
    """Generate with the model as it is and then with its pruned layers packed, on the same device and inputs.

    batch_sizes: how many images at a time. rounds: generations that count. mode, static: as `PackedLinear` and
    `time_generation` have them. tune: first find the fastest variants of the kernels for the model's layers, and keep
    them for this machine. Raises UsageError for a model that ressa did not prune, or that writes no text.
    """
    find(model)
    if min(batch_sizes, default=0) < 1 or new_tokens < 2 or rounds < 1:
        raise UsageError(
            "There is nothing to time: ask for at least one image, two new tokens and one round."
        )
    # What is wrong up to here is told before PyTorch is imported.
    import torch

    from ressa.checkpoint import load, read_masks
    from ressa.device import find_device
    from ressa.fast_dtype import in_fast_dtype
    from ressa.provenance import versions
    from ressa.runtime.model import pack_layers, packed_layers, weights_in_calls

    where = find_device(device)
    if tune and where.type != "cuda":
        raise UsageError("There is nothing to tune: kernels for packed layers run on NVIDIA GPUs only.")
    masks = read_masks(model)
    vlm = load(model, dtype=find_dtype(dtype), unpack=True)
    if not vlm.model.can_generate():
        raise UsageError(f"{type(vlm.model).__name__} cannot generate text: there is nothing to time.")
    speeds: dict[str, list[Speed]] = {}
    tuned: list[dict[str, Any]] = []
    with in_fast_dtype(vlm.model, device=where, asked=dtype) as computed_in:
        vlm.model.to(where)
        for form in ("dense", "packed"):
            if form == "packed":
                pack_layers(vlm.model, masks, mode)
                if where.type == "cuda":
                    torch.cuda.empty_cache()
                if tune:
                    tuned = _tune(weights_in_calls(vlm.model))
            speeds[form] = [
                _time(vlm, batch, new_tokens, rounds, prompt, static, form) for batch in batch_sizes
            ]
        held = sorted({_held(layer) for layer in packed_layers(vlm.model).values()})
    agree = [
        float((a.tokens == b.tokens).float().mean())
        for a, b in zip(speeds["dense"], speeds["packed"], strict=True)
    ]
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else "CPU"
    data = {
        "model": model,
        "device": name,
        "computed_in": computed_in,
        "static_cache": static,
        "mode": mode,
        "held_as": held,
        **({"tuned": tuned} if tune else {}),
        "dense": [_plain(speed) for speed in speeds["dense"]],
        "packed": [_plain(speed) for speed in speeds["packed"]],
        "tokens_that_agree": agree,
        "versions": versions(),
    }
    lines = [f"{name}, {computed_in}; packed layers are held as {' and '.join(held)}."]
    if where.type != "cuda":
        lines.append(
            "There are no kernels for this device: packed weights save room on disk here, and no time."
        )
    if tune:
        lines.append(
            f"{len(tuned)} variants of kernels were chosen for this card; they are used from now on."
        )
    if is_packed(model):
        lines.append("Dense is the same folder, unpacked.")
    return Outcome(data, [_table(model, speeds["dense"], speeds["packed"], agree)], lines)


def _tune(weights: Iterable[Any]) -> list[dict[str, Any]]:
    from ressa.progress import bar
    from ressa.runtime.kernels import tuning

    found = []
    with bar("Tuning kernels", None) as progress:
        for entry, microseconds in tuning.tune(weights, TUNED_TOKENS):
            found.append({**entry, "microseconds": microseconds})
            progress.advance()
    return found


def _time(
    vlm: Any, batch: int, new_tokens: int, rounds: int, prompt: str, static: bool, form: str
) -> "Speed":
    from ressa.data import Batcher, Sample
    from ressa.evaluation.generation import on_model
    from ressa.progress import bar
    from ressa.runtime.bench import time_generation

    batcher = Batcher(vlm.processor, vlm.model.config)
    pixels = np.random.default_rng(0).integers(0, 256, (batch, 336, 336, 3), dtype=np.uint8)
    samples = [Sample(Image.fromarray(image), prompt) for image in pixels]
    with bar(f"Timing {form}, {batch} at a time", None):
        return time_generation(
            vlm.model,
            on_model(batcher.generation(samples), vlm.model),
            new_tokens,
            prompt_tokens=batcher.length(samples[0]),
            rounds=rounds,
            static=static,
        )


def _held(layer: Any) -> str:
    return "packed values" if layer.prepared is None else type(layer.prepared).__name__


def _plain(speed: "Speed") -> dict[str, Any]:
    return {key: value for key, value in asdict(speed).items() if key != "tokens"}


def _table(title: str, dense: Sequence["Speed"], packed: Sequence["Speed"], agree: Sequence[float]) -> Table:
    """Ratios say how many times as fast packed is, and how much of the memory is left."""
    rows = [_row("weights, MB", dense[0].weights / 1e6, packed[0].weights / 1e6)]
    sections = {0}
    for a, b, same in zip(dense, packed, agree, strict=True):
        rows += [
            (f"{a.batch} × ({a.prompt_tokens} + {a.new_tokens} tokens)", "", "", ""),
            (
                "  first token, ms",
                f"{a.first_token * 1e3:,.1f}",
                f"{b.first_token * 1e3:,.1f}",
                f"{a.first_token / b.first_token:.2f} ×",
            ),
            _row("  prefill, tokens/s", a.prefill, b.prefill),
            _row("  decode, tokens/s", a.decode, b.decode),
        ]
        if a.peak is not None and b.peak is not None:
            rows.append(_row("  peak memory, MB", a.peak / 1e6, b.peak / 1e6))
        rows.append(("  tokens that agree", "", f"{same:.0%}", ""))
        sections.add(len(rows) - 1)
    return Table(title, ("", "dense", "packed", "packed / dense"), tuple(rows), frozenset(sections))


def _row(label: str, dense: float, packed: float) -> tuple[str, ...]:
    return (label, f"{dense:,.1f}", f"{packed:,.1f}", f"{packed / dense:.2f} ×")
