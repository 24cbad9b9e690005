"""How fast are the runtime's kernels, layer by layer, beside dense layers of the same weights?

    python benchmarks/runtime_kernels.py --output runtime_kernels.json
    python benchmarks/runtime_kernels.py --tune variants.json        tries every variant first, keeps the fastest

Few tokens: 24 layers of one shape in a CUDA graph, each with its own weights, so that these are never in the L2
cache; then the same eagerly, where the host counts too. Many tokens: eagerly. Dense is `F.linear` on the same
weights, in the same run; for 2:4 in FP8 too, whose values are rounded to e4m3 with a scale a row. Floor: the bytes
of the weights over what the card reads in a second; products over what it computes. Medians; results are checked
against fp64 first.
"""

import argparse
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import exp, log
from pathlib import Path
from typing import Any

import torch
from timing import ceilings
from torch import Tensor
from torch.nn import functional as F

from ressa.files import write_json
from ressa.runtime.kernels import driver, nvrtc, tuning, variants
from ressa.runtime.kernels.sparse24 import Blocks24, Fp8Blocks24, SplitBlocks
from ressa.runtime.packing import pack

PREPARED = {"2:4": Blocks24, "2:4 in FP8": Fp8Blocks24}
PATTERNS = "2:4,2:4 in FP8,0.5,0.7"
SHAPES = "4096x4096,11008x4096,4096x11008,14336x4096"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", default=SHAPES, help="out x in, separated by commas")
    parser.add_argument("--patterns", default=PATTERNS, help="2:4, 2:4 in FP8, or the share of zeros")
    parser.add_argument("--tokens", default="1,2,4,8,16,32,64,1024,4096", help="for 2:4")
    parser.add_argument("--any-tokens", default="1,2,4,8,16,32", help="for weights of any pattern")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16"])
    parser.add_argument(
        "--tune", type=Path, help="try every variant, write the fastest to this table and use it"
    )
    parser.add_argument("--eager", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument(
        "--overlap",
        action="store_true",
        help="kernels may start before the one ahead has ended, as in a model",
    )
    parser.add_argument("--output", type=Path, help="JSON")
    parser.add_argument(
        "--draw", type=Path, nargs="+", metavar="JSON", help="measure nothing: draw these results"
    )
    parser.add_argument("--figure", type=Path, help="of --draw: speed-up against tokens, PNG")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.draw:
        rows = [row for path in options.draw for row in json.loads(path.read_text())["rows"]]
        draw(rows, options.figure or Path("runtime_kernels.png"))
        return
    if not torch.cuda.is_available():
        raise SystemExit("The kernels need an NVIDIA GPU; there is none here.")
    torch.manual_seed(0)
    dtype = getattr(torch, options.dtype)
    driver.OVERLAP = options.overlap
    if options.tune:
        compile_all(dtype)
    limits = ceilings("cuda")
    results: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "dtype": options.dtype,
        "layers": options.layers,
        "overlap": options.overlap,
        "ceilings": limits,
        "rows": [],
    }
    print(
        f"{results['device']}, torch {torch.__version__}: copies {limits['tbytes_per_s']:.2f} TB/s, "
        f"products {limits['tflops']:.0f} TFLOP/s, {options.layers} layers in a graph",
        flush=True,
    )
    table: dict[str, list[dict[str, Any]]] = {}
    for text in options.shapes.split(","):
        rows, columns = map(int, text.split("x"))
        dense = torch.randn(rows, columns, device="cuda").to(dtype) * 0.02
        copies = [dense] + [dense.clone() for _ in range(options.layers - 1)]
        timed_dense: dict[int, tuple[float, float]] = {}
        for name in options.patterns.split(","):
            mask, tokens_text = random_mask(name, rows, columns), options.any_tokens
            if "2:4" in name:
                few = [count for count in options.tokens.split(",") if int(count) <= variants.MOST_TOKENS]
                tokens_text = options.tokens if name == "2:4" else ",".join(few)
            packed = pack(dense.masked_fill(~mask, 0.0), mask)
            first = PREPARED.get(name, SplitBlocks).of(packed)
            layers = [first] + [tuning.copy(first) for _ in range(options.layers - 1)]
            for tokens in map(int, tokens_text.split(",")):
                cold = layers if tokens <= variants.MOST_TOKENS else layers[:6]
                ranked = (
                    tuning.ranking(cold, tokens) if options.tune and tuning.tunable(first, tokens) else []
                )
                if ranked:  # else the layer takes these tokens in parts, each a case of its own, or unpacked
                    best = ranked[0][1]
                    table.setdefault(best.kernel, []).append(variants.entry((rows, columns), tokens, best))
                    tuning.keep({best.kernel: [variants.entry((rows, columns), tokens, best)]})
                    print("    " + "; ".join(f"{us:.2f} {short(v)}" for us, v in ranked[:5]), flush=True)
                x = torch.randn(tokens, columns, device="cuda", dtype=dtype)
                if tokens not in timed_dense:
                    timed_dense[tokens] = times(
                        [lambda w=w, x=x: F.linear(x, w) for w in copies[: len(cold)]], options.eager
                    )
                row = measure(first, cold, x, timed_dense[tokens], options.eager)
                results["rows"].append({"pattern": name, "rows": rows, "columns": columns, **row})
                print(line(results["rows"][-1]), flush=True)
            del layers, first
        del copies
        torch.cuda.empty_cache()
    summary(results)
    if options.tune:
        write_json(options.tune, table)
    if options.output:
        write_json(options.output, results)
    if not all(row["error"] < 1e-2 for row in results["rows"]):
        raise SystemExit("Some results were wrong.")


def random_mask(pattern: str, rows: int, columns: int) -> Tensor:
    """bool (rows, columns), True where a weight is kept."""
    if "2:4" in pattern:
        return torch.rand(rows, columns // 4, 4, device="cuda").argsort(2).lt(2).view(rows, columns)
    return torch.rand(rows, columns, device="cuda") >= float(pattern)


def times(calls: list[Callable[[], object]], eager: bool) -> tuple[float, float]:
    """Microseconds a call in a graph, and eagerly."""

    def all_of_them() -> None:
        for call in calls:
            call()

    graph = tuning.time_in_graph(calls)
    return graph, tuning.time_events(all_of_them, 9) / len(calls) if eager else float("nan")


@torch.no_grad()
def measure(
    first: Any, layers: list[Any], x: Tensor, dense: tuple[float, float], eager: bool
) -> dict[str, Any]:
    weight = first.dense()
    torch.full((1 << 24,), torch.nan, device="cuda")  # an output left unwritten is seen
    found = first.linear(x, None)
    exact = x.double() @ weight.double().T
    error = float((found.double() - exact).norm() / exact.norm())
    if not error < 1e-2:
        print(f"WRONG: {tuple(weight.shape)}, {x.shape[0]} tokens, error {error:.1e}", flush=True)
    same = torch.equal(found, first.linear(x, None))
    graph, eager_time = times([lambda w=w: w.linear(x, None) for w in layers], eager)
    size = sum(buffer.nbytes for buffer in first.buffers())
    return {
        "tokens": x.shape[0],
        "dense_us": dense[0],
        "us": graph,
        "speedup": dense[0] / graph,
        "dense_eager_us": dense[1],
        "eager_us": eager_time,
        "eager_speedup": dense[1] / eager_time,
        "tbytes_per_s": size / graph / 1e6,
        "size": size / weight.nbytes,
        "error": error,
        "deterministic": same,
    }


def line(row: dict[str, Any]) -> str:
    shape = f"{row['rows']}x{row['columns']}"
    return (
        f"{row['pattern']:>10} {shape:>11} {row['tokens']:>5} tokens: dense {row['dense_us']:7.2f} us, "
        f"packed {row['us']:7.2f} us ({row['tbytes_per_s']:.2f} TB/s), x{row['speedup']:.2f}; eagerly "
        f"{row['dense_eager_us']:7.2f}, {row['eager_us']:7.2f}, x{row['eager_speedup']:.2f}; "
        f"size {row['size']:.3f}, error {row['error']:.1e}{'' if row['deterministic'] else ', NOT DETERMINISTIC'}"
    )


def summary(results: dict[str, Any]) -> None:
    """Geometric means over the shapes, and the slowest of them."""
    rows = results["rows"]
    for pattern in dict.fromkeys(row["pattern"] for row in rows):
        for tokens in dict.fromkeys(row["tokens"] for row in rows if row["pattern"] == pattern):
            same = [row for row in rows if (row["pattern"], row["tokens"]) == (pattern, tokens)]
            text = f"{pattern:>10} {tokens:>5} tokens:"
            for kind in ("speedup", "eager_speedup"):
                values = [row[kind] for row in same]
                mean = exp(sum(map(log, values)) / len(values))
                text += f"  {kind} x{mean:.2f} (least x{min(values):.2f})"
            print(text)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Speed-up over dense against tokens: a line a pattern, the geometric mean of the shapes, in the band of all."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for pattern in dict.fromkeys(row["pattern"] for row in rows):
        mine = [row for row in rows if row["pattern"] == pattern]
        tokens = sorted({row["tokens"] for row in mine})
        ratios = [[row["speedup"] for row in mine if row["tokens"] == count] for count in tokens]
        means = [exp(sum(map(log, values)) / len(values)) for values in ratios]
        name = pattern if ":" in pattern else f"{float(pattern):.0%} of any pattern"
        (line_,) = axes.plot(tokens, means, marker="o", label=name)
        axes.fill_between(
            tokens, [min(v) for v in ratios], [max(v) for v in ratios], color=line_.get_color(), alpha=0.15
        )
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_xticks([2**i for i in range(13)], [str(2**i) for i in range(13)])
    axes.set(xlabel="tokens", ylabel="times as fast as dense", ylim=(0.5, None))
    axes.legend()
    figure.savefig(path, dpi=150)


def compile_all(dtype: torch.dtype) -> None:
    """Every variant at once, on all cores."""
    bf16 = {"BF16": int(dtype == torch.bfloat16)}
    limit = driver.shared_limit(0)
    programs = {("prefill24", tuple(v.macros().items())) for v in variants.prefill24_candidates()}
    for tokens in (8, 16, 32, 64):
        for columns in (4096, 11008):
            for bytes_, few in (
                (0, variants.candidates(variants.Decode24, tokens, columns, 0, limit)),
                (5000, variants.candidates(variants.Split24, tokens, columns, 5000, limit)),
                (0, variants.candidates(variants.Fp8Decode24, tokens, columns, 0, limit)),
                (2500, variants.candidates(variants.Split24, tokens, columns, 2500, limit)),
            ):
                sizes = (variant.macros(variant.x_room(tokens, columns, bytes_, limit)) for variant in few)
                programs |= {("decode24", tuple(size.items())) for size in sizes}
    with ThreadPoolExecutor() as pool:
        list(
            pool.map(lambda p: nvrtc.compiled(p[0], {**bf16, **dict(p[1])}, driver.architecture(0)), programs)
        )


def short(variant: Any) -> str:
    return json.dumps(variants.entry((0, 0), 0, variant)["variant"], separators=(",", ":"))


if __name__ == "__main__":
    main()
