"""How long does pruning a model of real size take, beside llm-compressor, in one run on one card?

    python benchmarks/prune_speed.py                          the table, and benchmarks/results/prune_speed.json
    python benchmarks/prune_speed.py --only "ours|dsnot"      what has one of these in its name: "ours, wanda, 2:4", …
    python benchmarks/prune_speed.py --parts floor,curves     one part or some: floor, sides, curves, others
    python benchmarks/prune_speed.py --smoke                  tiny, on any machine

The language tower of a LLaVA-1.5-7B with random weights in bf16, the model on the device already, 128 samples of 576
image and 64 text tokens. Both sides get the same weights and the same samples. Their error is that of each layer's
output, ‖x(W − Ŵ)ᵀ‖² / ‖xWᵀ‖², on inputs of the dense model to samples that neither has seen. A result that is in the
JSON already is kept, so a benchmark can be made in several runs on one machine.

llm-compressor comes with `pip install -e .[peers]`; without it only ours is timed.
"""

import argparse
import copy
import gc
import importlib.util
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from timing import ceilings, synchronize
from torch import Tensor, nn

from ressa.allocation import allocate, per_tower
from ressa.anatomy import find_anatomy
from ressa.files import read_json, write_json
from ressa.methods import get_method
from ressa.provenance import versions
from ressa.pruning import prune
from ressa.sparsity import NM, Plan, parse_pattern

GIB = 2**30
FROM_HOST = "model in host memory"
IMAGE = 90  # the id of the image token; text takes those below


@dataclass
class Size:
    """A model's shape and its calibration set's."""

    layers: int = 32
    width: int = 4096
    samples: int = 128
    image_tokens: int = 576
    text_tokens: int = 64
    batch: int = 8

    @property
    def tokens(self) -> int:
        return self.image_tokens + self.text_tokens

    @property
    def weights(self) -> int:
        """Of one block's linears."""
        return 4 * self.width**2 + 3 * self.width * self.middle

    @property
    def middle(self) -> int:
        return round(self.width * 11008 / 4096 / 256) * 256 if self.width >= 1024 else 2 * self.width


def make_model(size: Size, device: str) -> Any:
    """LLaVA-1.5's architecture with random weights: the same ones for the same size."""
    patches = round(size.image_tokens**0.5)
    large = size.width >= 1024
    vision = hf.CLIPVisionConfig(
        hidden_size=1024 if large else 64,
        intermediate_size=4096 if large else 128,
        num_hidden_layers=24 if large else 3,
        num_attention_heads=16 if large else 4,
        image_size=14 * patches,
        patch_size=14,
    )
    text = hf.LlamaConfig(
        vocab_size=32064 if large else 100,
        hidden_size=size.width,
        intermediate_size=size.middle,
        num_hidden_layers=size.layers,
        num_attention_heads=max(4, size.width // 128),
        num_key_value_heads=max(4, size.width // 128),
    )
    config = hf.LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE, image_seq_length=size.image_tokens
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return hf.LlavaForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(before)


def make_batches(size: Size, number: int, batch: int, seed: int = 0) -> list[dict[str, Tensor]]:
    """The same samples whatever the size of a batch."""
    generator = torch.Generator().manual_seed(seed)
    pixels = 14 * round(size.image_tokens**0.5)
    samples = []
    for _ in range(number):
        words = torch.randint(0, IMAGE - 1, (size.text_tokens,), generator=generator)
        ids = torch.cat([torch.full((size.image_tokens,), IMAGE), words])
        picture = torch.randn(3, pixels, pixels, generator=generator).to(torch.bfloat16)
        samples.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": picture})
    return [
        {name: torch.stack([sample[name] for sample in samples[i : i + batch]]) for name in samples[0]}
        for i in range(0, number, batch)
    ]


def plan_for(model: nn.Module, method: str, pattern: str) -> Plan:
    parsed = parse_pattern(pattern, scope=get_method(method).scope)
    return per_tower(find_anatomy(model), model, {"language": parsed})


def ours(model: Any, batches: Sequence[Mapping[str, Tensor]], method: str, pattern: str, **more: Any) -> None:
    prune(model, batches, plan_for(model, method, pattern), method=method, **more)


def peer(model: Any, batches: Sequence[Mapping[str, Tensor]], method: str, pattern: str) -> None:
    """llm-compressor's one-shot, as its examples call it; its batches are of one sample unless given others."""
    from llmcompressor import oneshot
    from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
    from tokenizers import Tokenizer, models

    parsed = parse_pattern(pattern)
    modifier = {"wanda": WandaPruningModifier, "sparsegpt": SparseGPTModifier}[method](
        sparsity=parsed.sparsity,
        mask_structure=f"{parsed.n}:{parsed.m}" if isinstance(parsed, NM) else "0:0",
        targets=["re:.*language_model.layers.*proj$"],
        ignore=["re:.*lm_head", "re:.*vision_tower.*", "re:.*multi_modal_projector.*"],
    )
    words = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        model.config._name_or_path = model.name_or_path = folder
        oneshot(
            model=model,
            processor=hf.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="a", pad_token="a"),
            dataset=torch.utils.data.DataLoader(list(batches), batch_size=None),  # type: ignore[arg-type]
            recipe=modifier,
            max_seq_length=batches[0]["input_ids"].shape[1],
            num_calibration_samples=len(batches),
            sequential_targets=["LlamaDecoderLayer"],
            shuffle_calibration_samples=False,
        )


def measure(run: Callable[[Any], object], model: Any, device: str) -> dict[str, float]:
    """Seconds of a run on a model, and the peak of GPU memory in GiB: in all, and beyond the model's weights.

    What lies there beside the model does not count: other models, and what an earlier run did not let go of.
    """
    gc.collect()
    on_gpu = device == "cuda"
    weights = sum(p.nbytes for p in model.parameters() if p.is_cuda)
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if on_gpu else 0
    synchronize(device)
    begun = time.perf_counter()
    run(model)
    synchronize(device)
    found = {"seconds": time.perf_counter() - begun}
    if on_gpu:
        beyond = torch.cuda.max_memory_allocated() - before
        found |= {"peak_gib": (weights + beyond) / GIB, "beyond_the_model_gib": beyond / GIB}
    return found


@torch.no_grad()
def layer_errors(dense: Any, pruned: Any, batch: Mapping[str, Tensor]) -> dict[str, float]:
    """Layer → ‖x(W − Ŵ)ᵀ‖² / ‖xWᵀ‖², x the inputs that the dense model gives it."""
    theirs = dict(pruned.named_modules())
    errors: dict[str, float] = {}
    with ExitStack() as hooks:
        for name in find_anatomy(dense).linears("language"):

            def compare(module: Any, args: Any, name: str = name) -> None:
                x = args[0].flatten(0, -2)
                gap = module.weight - theirs[name].weight.to(x.device)
                lost = (x @ gap.T).float().square().sum(dtype=torch.float64)
                errors[name] = float(lost / (x @ module.weight.T).float().square().sum(dtype=torch.float64))

            hooks.callback(dense.get_submodule(name).register_forward_pre_hook(compare).remove)
        dense(**{name: value.to(dense.device) for name, value in batch.items()})
    return errors


def zeros(model: nn.Module, layers: Sequence[str]) -> float:
    """Their share of some layers' weights."""
    weights: list[Any] = [model.get_submodule(name).weight for name in layers]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


def floor(size: Size, device: str) -> dict[str, float]:
    """What no pruning of this kind can go below: two runs through the tower, and for SparseGPT its Gram matrices.

    Wanda's second run is for what a pruned block gives the next; the last block's and a block's last linear in
    the first run are not needed, which is left out here.
    """
    found = ceilings(device)
    tokens = size.samples * size.tokens
    forward = 2 * size.layers * size.weights * tokens / found["tflops"] / 1e12
    gram = 2 * size.layers * (3 * size.width**2 + size.middle**2) * tokens / found["tflops"] / 1e12
    weights = 3 * 2 * size.layers * size.weights / found["tbytes_per_s"] / 1e12
    return {
        **found,
        "forward_seconds": forward,
        "wanda_seconds": 2 * forward + weights,
        "sparsegpt_seconds": 2 * forward + weights + gram,
    }


def asked(name: str, only: str) -> bool:
    return any(part in name for part in only.split("|"))


def sides(size: Size, device: str, report: "Report", only: str) -> None:
    dense = make_model(size, device)
    held_out = make_batches(size, 2, 2, seed=1)[0]
    batches = {batch: make_batches(size, size.samples, batch) for batch in (1, size.batch)}
    runs: dict[str, Callable[[Any], None]] = {}
    cases = list(product(("wanda", "sparsegpt"), ("2:4", "0.5")))
    for method, pattern in cases:
        runs[f"ours, {method}, {pattern}"] = partial(
            ours, batches=batches[size.batch], method=method, pattern=pattern
        )
    runs[f"ours, wanda, 2:4, {FROM_HOST}"] = partial(
        ours, batches=batches[size.batch], method="wanda", pattern="2:4", device=device
    )
    for batch, samples in batches.items() if importlib.util.find_spec("llmcompressor") else ():
        for method, pattern in cases:
            label = f"llm-compressor, {method}, {pattern}, batches of {batch}"
            runs[label] = partial(peer, batches=samples, method=method, pattern=pattern)
    warm = copy.deepcopy(dense)
    warm.model.language_model.layers = warm.model.language_model.layers[:1]
    for method in ("wanda", "sparsegpt"):  # what is loaded and compiled once
        ours(warm, make_batches(size, 2, 2), method, "2:4")
        if any(asked(name, only) for name in runs if name.startswith(f"llm-compressor, {method}")):
            peer(copy.deepcopy(warm), make_batches(size, 2, 1), method, "2:4")
    del warm
    for name, run in runs.items():
        if not asked(name, only) or report.has("sides", name):
            continue
        model = copy.deepcopy(dense)
        if FROM_HOST in name:
            model = model.cpu()
        found: dict[str, Any] = measure(run, model, device)
        report.add("sides", name, found)
        errors = layer_errors(dense, model, held_out)
        found |= {"error": sum(errors.values()) / len(errors), "zeros": zeros(model, list(errors))}
        report.add("sides", name, found)
        del model


def curves(size: Size, device: str, report: "Report", only: str) -> None:
    """Seconds of ours on a few blocks, as one thing grows and the others stay."""
    few = 2 if size.layers < 4 else 4
    points: dict[str, list[Size]] = {
        "samples": [replace(size, layers=few, samples=size.samples // k) for k in (8, 4, 2, 1)],
        "tokens": [
            replace(size, layers=few, text_tokens=size.text_tokens * k, batch=max(1, size.batch // k))
            for k in (1, 4, 16)
        ],
        "width": [replace(size, layers=few, width=round(size.width * k)) for k in (0.25, 0.5, 1, 2)],
    }
    for axis, sizes in points.items():
        for each in sizes:
            batches = make_batches(each, each.samples, each.batch)
            dense = make_model(each, device)
            for method in ("wanda", "sparsegpt"):  # what is compiled and searched once
                ours(copy.deepcopy(dense), batches[:1], method, "2:4")
            for method in ("wanda", "sparsegpt"):
                x = getattr(each, axis)
                name = f"{method}, {axis}, {x}"
                if asked(name, only) and not report.has("curves", name):
                    model = copy.deepcopy(dense)
                    found = measure(
                        partial(ours, batches=batches, method=method, pattern="2:4"), model, device
                    )
                    report.add(
                        "curves", name, {"method": method, "axis": axis, "x": x, "layers": few, **found}
                    )
                    del model
            del dense


def others(size: Size, device: str, report: "Report", only: str) -> None:
    """DSnoT, and the allocations of shares of zeros, which prune nothing yet."""
    dense = make_model(size, device)
    # As `ressa prune` calibrates: few at a time where gradients are measured, one for ECoFLaP.
    few = make_batches(size, size.samples, max(1, min(16, 2048 // size.tokens)))
    batches, alone = (
        make_batches(size, size.samples, size.batch),
        make_batches(size, min(size.samples, 32), 1),
    )
    for batch in (*few, *alone):  # the last words are the targets
        batch["labels"] = batch["input_ids"].clone()
        batch["labels"][:, : -size.text_tokens // 2] = -100
    runs: dict[str, Callable[[Any], object]] = {
        "dsnot, 0.5": lambda model: ours(model, batches, "dsnot", "0.5"),
        "dsnot, 2:4": lambda model: ours(model, batches, "dsnot", "2:4"),
    }
    for name in ("owl", "ecoflap-first", "ecoflap-zeroth", "auto"):
        inputs = {"owl": batches, "auto": few}.get(name, alone)
        runs[name] = lambda model, n=name, b=inputs: allocate(n, model, b, {"language": 0.5})
    for name, run in runs.items():
        if asked(name, only) and not report.has("others", name):
            model = copy.deepcopy(dense)
            found = measure(run, model, device)
            report.add("others", name, {"layers": size.layers, **found})
            del model


class Report:
    """What was measured, written down as it comes."""

    def __init__(self, path: Path | None, size: Size, device: str) -> None:
        self.path = path
        card = torch.cuda.get_device_name() if device == "cuda" else "CPU"
        self.data: dict[str, Any] = {"versions": versions(), "card": card, "size": vars(size)}
        before = read_json(path) if path and path.is_file() else None
        if before and {k: before[k] for k in ("card", "size")} == {k: self.data[k] for k in ("card", "size")}:
            self.data = before

    def has(self, part: str, name: str) -> bool:
        return name in self.data.get(part, {})

    def add(self, part: str, name: str, found: Mapping[str, Any]) -> None:
        self.data.setdefault(part, {})[name] = dict(found)
        print(
            f"{part:8}{name:48}"
            + "  ".join(f"{k} {v:.5g}" for k, v in found.items() if isinstance(v, float)),
            flush=True,
        )
        if self.path:
            write_json(self.path, self.data)


def draw(curves: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Seconds over samples, tokens a sample and width, a line a method."""
    from matplotlib.figure import Figure

    points = list(curves.values())
    axes = list(dict.fromkeys(point["axis"] for point in points))
    figure = Figure(figsize=(3.4 * len(axes), 3), layout="constrained")
    for axis, panel in zip(axes, figure.subplots(1, len(axes), sharey=True, squeeze=False)[0], strict=True):
        for method in dict.fromkeys(point["method"] for point in points):
            line = [(q["x"], q["seconds"]) for q in points if (q["axis"], q["method"]) == (axis, method)]
            panel.plot(*zip(*line, strict=True), marker="o", label=method)
        panel.set(xscale="log", yscale="log", xlabel=axis)
        panel.set_xticks(sorted({q["x"] for q in points if q["axis"] == axis}), minor=False)
        panel.xaxis.set_major_formatter("{x:.0f}")
        panel.set_yticks([2.0**power for power in range(-3, 5)], minor=False)
        panel.yaxis.set_major_formatter("{x:g}")
        panel.set_ylim(0.8 * min(q["seconds"] for q in points), 1.25 * max(q["seconds"] for q in points))
        panel.minorticks_off()
    panel.legend()
    figure.axes[0].set_ylabel(f"seconds, {points[0]['layers']} blocks")
    figure.savefig(path, metadata={"Software": None})


PARTS = {"sides": sides, "curves": curves, "others": others}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--parts", default="floor,sides,curves,others")
    parser.add_argument("--only", default="", help="runs with one of these in their name: a|b")
    parser.add_argument("--layers", type=int, default=32, help="blocks of the language tower")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8, help="samples a batch")
    parser.add_argument("--output", type=Path, help="JSON (default: benchmarks/results/prune_speed.json)")
    parser.add_argument("--figure", type=Path, help="PNG of the curves")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, to see that everything runs")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = Size(options.layers, samples=options.samples, batch=options.batch)
    if options.smoke:
        size = Size(2, 64, 8, 16, 16, 4)
    output = options.output or (None if options.smoke else Path(__file__).parent / "results/prune_speed.json")
    report = Report(output, size, device)
    print(f"{report.data['versions']}\n{report.data['card']}, {size}\n")
    parts = options.parts.split(",")
    if "floor" in parts:
        report.add("floor", "floor", floor(size, device))
    for name in parts:
        if name in PARTS:
            PARTS[name](size, device, report, options.only)
    if options.figure:
        draw(report.data["curves"], options.figure)
    if output:
        print(f"\nwritten: {output}")


if __name__ == "__main__":
    main()
