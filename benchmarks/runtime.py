"""How fast is a whole sparse model, beside the same model dense, in FP8, and in torch's own 2:4 tensors?

    python benchmarks/runtime.py --output runtime.json        LLaVA-1.5-7B's shape, random weights, one GPU
    python benchmarks/runtime.py --smoke --output runtime.json

The language tower is sparse. Prefill: vision tower, connector and language tower read an image and a prompt, 640
tokens, up to the first token's logits. Decode: the language tower and its head write 128 tokens after that, with a
static cache, as `generate` does it: every decoder layer compiled by torch (norms, rotations and activations fused) on
every side; where a side's tensors cannot be compiled its layers run as they are, and the table says so. Both in CUDA
graphs, on every side, so that the host counts nowhere; the device's own clock, medians.
A step reads all weights, so they are never in the L2 cache. Every side's logits are compared with those of the
dense model of the same weights.

The ceiling comes first: which part of a step the language tower's linears are, and what follows if these alone
were as many times as fast as the bytes they no longer read.
"""

import argparse
import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from prune_speed import IMAGE, Size, make_batches, make_model
from timing import ceilings, error, synchronize
from torch import Tensor, nn
from transformers import StaticCache

from ressa.files import write_json
from ressa.provenance import versions
from ressa.runtime.kernels.sparse24 import Fp8Blocks24, to_fp8
from ressa.runtime.linear import PackedLinear
from ressa.runtime.model import find_siblings
from ressa.runtime.packing import pack

NEW = 128
ROUNDS = 7
Make = Callable[[nn.Linear, Tensor], nn.Module]


class Fp8Linear(nn.Module):
    """What a user would pick instead: e4m3 weights with a scale a row, inputs scaled row by row as they come, in
    one compiled kernel."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        values, scale = to_fp8(linear.weight.detach())
        self.register_buffer("values", values)
        self.register_buffer("scale", scale.T.contiguous())

    def forward(self, x: Tensor) -> Tensor:
        values, scale = compiled_to_fp8(x.reshape(-1, x.shape[-1]))
        y = torch._scaled_mm(
            values,
            self.values.T,
            scale_a=scale,
            scale_b=self.scale,
            out_dtype=x.dtype,
            use_fast_accum=True,
        )
        return y.reshape(*x.shape[:-1], -1)


compiled_to_fp8 = torch.compile(to_fp8, dynamic=False)
torch._dynamo.config.recompile_limit = 64  # one kernel for each number of tokens and width
torch._dynamo.config.allow_unspec_int_on_nn_module = (
    True  # one for all layers, whatever their longest records
)


def fp8(linear: nn.Linear, _: Tensor) -> nn.Module:
    return Fp8Linear(linear)


def packed(linear: nn.Linear, mask: Tensor) -> nn.Module:
    return PackedLinear.of(pack(linear.weight, mask), linear.bias, "packed")


def packed_alone(linear: nn.Linear, mask: Tensor) -> nn.Module:
    """Each layer in a call of its own."""
    return packed(linear, mask)


class PackedFp8Linear(nn.Module):
    """Our 2:4 weight with its kept values in e4m3; the inputs stay as they are."""

    def __init__(self, linear: nn.Linear, mask: Tensor) -> None:
        super().__init__()
        self.prepared = Fp8Blocks24.of(pack(linear.weight, mask, "2:4"))
        self.bias = linear.bias

    @torch.compiler.disable  # it is no operator of torch's; what lies around it is compiled all the same
    def forward(self, x: Tensor) -> Tensor:
        return self.prepared.linear(x, self.bias)


def packed_fp8(linear: nn.Linear, mask: Tensor) -> nn.Module:
    return PackedFp8Linear(linear, mask)


def semi_structured(linear: nn.Linear, _: Tensor) -> nn.Module:
    from torch.sparse import to_sparse_semi_structured

    other = nn.Linear(1, 1, bias=False, device="meta")
    other.weight = nn.Parameter(to_sparse_semi_structured(linear.weight.detach()), requires_grad=False)
    return other


def random_mask(shape: torch.Size, pattern: str, seed: int, device: str) -> Tensor:
    """bool (out, in): "2:4", or the share of zeros in every row."""
    scores = torch.rand(shape, generator=torch.Generator(device).manual_seed(seed), device=device)
    if pattern == "2:4":
        groups = scores.view(shape[0], -1, 4)
        return (
            torch.zeros_like(groups, dtype=torch.bool)
            .scatter_(2, groups.topk(2, 2).indices, True)
            .view(shape)
        )
    kept = scores.topk(round(shape[1] * (1 - float(pattern))), 1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, kept, True)


class Model:
    """One model whose language linears are exchanged for another side's, timed, and put back."""

    def __init__(self, size: Size, new: int, device: str, compiled: bool) -> None:
        self.device, self.new = device, new
        self.model: Any = make_model(size, device)
        self.tower: Any = self.model.model.language_model
        for layer in self.tower.layers:
            layer.self_attn.layer_idx = (
                0  # each has a cache of its own, so that one compiled layer serves for all
            )
        if compiled:
            for layer in [*self.tower.layers, *self.model.model.vision_tower.encoder.layers]:
                layer.compile()
        self.names = [name for name, part in self.tower.layers.named_modules() if type(part) is nn.Linear]
        self.size = size

    def linears(self) -> Iterator[tuple[str, nn.Linear]]:
        for name in self.names:
            yield name, self.tower.layers.get_submodule(name)

    def prune(self, pattern: str) -> None:
        """Zeros of a pattern into the weights, on top of those that are there."""
        for seed, (_, linear) in enumerate(self.linears()):
            linear.weight.data.masked_fill_(~random_mask(linear.weight.shape, pattern, seed, self.device), 0)

    @contextmanager
    def exchanged(self, make: Make | None, pattern: str) -> Iterator[None]:
        dense = dict(self.linears())
        try:
            for seed, (name, linear) in enumerate(dense.items()):
                if make is not None:
                    mask = random_mask(linear.weight.shape, pattern, seed, self.device)
                    self.tower.layers.set_submodule(name, make(linear, mask))
            if make is packed:
                find_siblings(self.tower)
            yield
        finally:
            for name, linear in dense.items():
                self.tower.layers.set_submodule(name, linear)

    def bytes(self) -> int:
        """Of all weights, in whatever form."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        return sum(_bytes(tensor) for tensor in {id(tensor): tensor for tensor in tensors}.values())

    def prefill(self, batch: int) -> Callable[[], Tensor]:
        inputs = {
            key: value.to(self.device) for key, value in make_batches(self.size, batch, batch)[0].items()
        }
        ids, pixels = inputs["input_ids"], inputs["pixel_values"].to(self.model.dtype)
        text = self.tower.embed_tokens(ids[:, self.size.image_tokens :])
        assert bool((ids[:, : self.size.image_tokens] == IMAGE).all()), "the image stands before the text"
        positions = torch.arange(ids.shape[1], device=self.device)[None]

        def run() -> Tensor:
            """Logits of the first new token, (batch, vocabulary)."""
            seen = self.model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
            hidden = torch.cat([self.model.model.multi_modal_projector(seen), text], 1)
            return self._head(self._layers(hidden, positions, None, [None] * len(self.tower.layers))[:, -1])

        return run

    def decode(self, batch: int) -> tuple[Callable[[], Tensor], Callable[[], None]]:
        """One step, which advances by itself, and what goes back to the end of the prompt."""
        length = self.size.tokens + self.new
        one = copy.deepcopy(self.model.config.get_text_config())
        one.num_hidden_layers = 1
        heads = self.tower.config.num_key_value_heads
        width = self.tower.layers[0].self_attn.head_dim
        seeded = torch.Generator().manual_seed(batch)
        prompt = torch.randn(batch, heads, self.size.tokens, width, generator=seeded)
        filled = prompt.to(self.device, self.model.dtype)
        caches = [StaticCache(config=one, max_cache_len=length) for _ in self.tower.layers]
        for cache in caches:
            cache.update(filled, filled.clone(), 0)
            kept = cache.layers[0]  # copies, as the originals are marked as never to be exchanged
            kept.keys, kept.values = kept.keys.clone(), kept.values.clone()
            kept.cumulative_length = kept.cumulative_length.clone()
        written = caches[0].layers[0].cumulative_length
        token = torch.ones(batch, 1, dtype=torch.long, device=self.device)
        places = torch.arange(length, device=self.device)

        def rewind() -> None:
            for cache in caches:
                cache.layers[0].cumulative_length.fill_(self.size.tokens)
            token.fill_(1)

        def step() -> Tensor:
            now = written.clone()
            hidden = self.tower.embed_tokens(token)
            mask = (places <= now)[None, None, None].expand(batch, 1, 1, -1)
            logits = self._head(self._layers(hidden, now.view(1, 1), mask, caches)[:, -1])
            token.copy_(logits.argmax(-1, keepdim=True))
            return logits

        return step, rewind

    def only_linears(self, tokens: int) -> Callable[[], None]:
        """The language tower's linears and nothing else."""
        made = {
            linear.in_features: torch.randn(
                tokens, linear.in_features, device=self.device, dtype=self.model.dtype
            )
            for _, linear in self.linears()
        }

        def run() -> None:
            for _, linear in self.linears():
                linear(made[linear.in_features])

        return run

    def _layers(self, hidden: Tensor, positions: Tensor, mask: Tensor | None, caches: list[Any]) -> Tensor:
        angles = self.tower.rotary_emb(hidden, positions)
        for layer, cache in zip(self.tower.layers, caches, strict=True):
            hidden = layer(
                hidden,
                attention_mask=mask,
                position_ids=positions,
                position_embeddings=angles,
                past_key_values=cache,
                use_cache=cache is not None,
            )
        return self.tower.norm(hidden)

    def _head(self, hidden: Tensor) -> Tensor:
        return self.model.lm_head(hidden)


def _bytes(tensor: Tensor) -> int:
    parts = [getattr(tensor, name, None) for name in ("packed", "meta")] if type(tensor) is not Tensor else []
    held = [part for part in parts if isinstance(part, Tensor)]
    return sum(part.nbytes for part in held) if held else tensor.nbytes


def graph_of(run: Callable[[], Any], device: str) -> Callable[[], Any]:
    """The run as one CUDA graph, after three warm ones; on a CPU the run itself."""
    if device != "cuda":
        run()
        return run
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()

    def replay() -> Any:
        graph.replay()
        return result

    return replay


def timed(run: Callable[[], Any], before: Callable[[], None], calls: int, device: str) -> float:
    """Median ms a call, of `ROUNDS` rows of calls."""
    import time

    found = []
    for _ in range(ROUNDS):
        before()
        synchronize(device)
        start = time.perf_counter()
        if device == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
        for _ in range(calls):
            run()
        if device == "cuda":
            end.record()
            synchronize(device)
        found.append(begin.elapsed_time(end) if device == "cuda" else (time.perf_counter() - start) * 1e3)
    return median(found) / calls


@torch.inference_mode()
def time_side(model: Model, batch: int, device: str) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Milliseconds of both phases, and the logits of the first token and of the first decoding step."""
    torch._dynamo.reset()
    prefill = graph_of(model.prefill(batch), device)
    first = prefill().clone()
    reading = timed(prefill, lambda: None, 3, device)
    del prefill
    torch._dynamo.reset()
    step, rewind = model.decode(batch)
    rewind()
    step = graph_of(step, device)
    rewind()
    second = step().clone()
    writing = timed(step, rewind, model.new, device)
    found = {
        "prefill_ms": reading,
        "prefill_tokens_per_s": batch * model.size.tokens / reading * 1e3,
        "decode_ms": writing,
        "decode_tokens_per_s": batch / writing * 1e3,
        "weights_bytes": model.bytes(),
    }
    return found, first, second


def time_either_way(
    model: Model, batch: int, device: str, compiled: bool
) -> tuple[dict[str, Any], Tensor, Tensor]:
    """The same; where the side's tensors cannot be compiled, as they are."""
    try:
        found = time_side(model, batch, device)
    except Exception as reason:
        if not compiled:
            raise
        print(f"cannot be compiled: {str(reason).splitlines()[0]}", flush=True)
        compiled = False
        with torch.compiler.set_stance("force_eager"):
            found = time_side(model, batch, device)
    found[0]["compiled"] = compiled
    return found


@torch.inference_mode()
def ceiling(
    model: Model, batches: list[int], dense: dict[int, dict[str, Any]], device: str
) -> dict[str, Any]:
    """The linears' share of dense time, and the speed-up if they alone took 0.5625 of theirs in decoding."""
    found = {}
    for batch in batches:
        for phase, tokens in (("prefill", batch * model.size.tokens), ("decode", batch)):
            run = graph_of(model.only_linears(tokens), device)
            linears = timed(run, lambda: None, 5, device)
            share = min(1.0, linears / dense[batch][f"{phase}_ms"])
            found[f"{phase}, batch {batch}"] = {
                "linears_ms": linears,
                "share": share,
                "bound": 1 / (1 - share + share * 0.5625),
            }
    return found


SIDES: dict[str, tuple[Make | None, str]] = {
    "dense": (None, "2:4"),
    "ressa 2:4": (packed, "2:4"),
    "ressa 2:4, layer by layer": (packed_alone, "2:4"),
    "dense FP8": (fp8, "2:4"),
    "ressa 2:4 in FP8": (packed_fp8, "2:4"),
    "torch 2:4": (semi_structured, "2:4"),
    "dense, 70 % zeros": (None, "0.7"),
    "ressa 70 %": (packed, "0.7"),
    "ressa 70 %, layer by layer": (packed_alone, "0.7"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="a tiny model, which runs anywhere")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--sides", help="some of " + "|".join(SIDES).replace("%", "%%"))
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, help="every layer; by default on a GPU"
    )
    parser.add_argument("--output", type=Path, help="JSON")
    options = parser.parse_args()
    device = "cpu" if options.smoke or not torch.cuda.is_available() else "cuda"
    size = Size(layers=2, width=64, image_tokens=4, text_tokens=4) if options.smoke else Size()
    batches = [int(batch) for batch in options.batches.split(",")]
    sides = options.sides.split("|") if options.sides else list(SIDES)
    if device == "cpu":  # torch has neither FP8 products nor 2:4 tensors there
        sides = [side for side in sides if "FP8" not in side and "torch" not in side]
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    report: dict[str, Any] = {
        "device": name,
        "versions": versions(),
        "ceilings": ceilings(device),
        "sides": {},
    }
    report |= {"prompt_tokens": size.tokens, "new_tokens": 4 if options.smoke else NEW}
    compiled = device == "cuda" if options.compile is None else options.compile
    report["compiled"] = compiled
    model = Model(size, report["new_tokens"], device, compiled)
    print(
        f"{name}: {size.tokens} tokens of image and prompt, {report['new_tokens']} new; torch {torch.__version__}"
    )
    pruned, exact = "", {}
    for side in sides:
        make, pattern = SIDES[side]
        if pattern != pruned:
            model.prune(pattern)
            pruned, exact = pattern, {}
        try:
            with model.exchanged(make, pattern):
                found = {}
                for batch in batches:
                    times, *logits = time_either_way(model, batch, device, compiled)
                    if make is None:
                        exact[batch] = [each.double() for each in logits]
                    elif batch in exact:
                        times["errors"] = [error(a, b) for a, b in zip(logits, exact[batch], strict=True)]
                    found[batch] = times
                    print(
                        side,
                        batch,
                        json.dumps({k: v for k, v in times.items() if k != "weights_bytes"}),
                        flush=True,
                    )
        except Exception as reason:  # of a library that is measured beside ours
            if make in (packed, packed_alone, None):
                raise
            print(f"{side}: does not run here ({reason})")
            report["sides"][side] = {"failed": str(reason).splitlines()[0]}
            continue
        report["sides"][side] = found
        if side == "dense":
            report["ceiling"] = ceiling(model, batches, found, device)
        if options.output:
            write_json(options.output, report)
    print_tables(report, batches)


def print_tables(report: dict[str, Any], batches: list[int]) -> None:
    for case, found in report.get("ceiling", {}).items():
        print(
            f"{case}: linears are {found['share']:.1%} of dense; at 0.5625 of their time {found['bound']:.2f} ×"
        )
    dense = report["sides"].get("dense")
    print("\n| | weights | " + " | ".join(f"prefill {b} | decode {b}" for b in batches) + " |")
    print("|---|---" + "|---|---" * len(batches) + "|")
    for side, found in report["sides"].items():
        if "failed" in found:
            print(f"| {side} | does not run |")
            continue
        if report["compiled"] and not found[batches[0]]["compiled"]:
            side += " (not compiled)"
        cells = [f"{found[batches[0]]['weights_bytes'] / 1e9:.2f} GB"]
        for batch in batches:
            for phase in ("prefill", "decode"):
                ms = found[batch][f"{phase}_ms"]
                ratio = f" ({dense[batch][f'{phase}_ms'] / ms:.2f} ×)" if dense else ""
                cells.append(f"{ms:.2f} ms{ratio}")
        print(f"| {side} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
