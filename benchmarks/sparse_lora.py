"""One linear layer, forward and backward with the input's gradient: SparseLoRA beside what it competes with.

    python benchmarks/sparse_lora.py                 the table, and benchmarks/results/sparse_lora.json
    python benchmarks/sparse_lora.py --below-floor   also: 2:4 products on sparse tensor cores
    python benchmarks/sparse_lora.py --tune          first the block shapes of both kernels; then the best
    python benchmarks/sparse_lora.py --cpu           the layers of a small model in fp32, one CPU core
    python benchmarks/sparse_lora.py --smoke         seconds, on any machine

Everything runs on random inputs, in bf16 on a GPU, with rank 8, interleaved in one process. The floor of
SparseLoRA is the time of three products, as it needs the full weight's gradient G before its mask: the line
"full weight gradient".

    ms          the GPU's time (the CPU's, with --cpu)
    host        what the host takes to launch it
    in a row    wall clock of many calls: the larger of the two
The backward runs in the calling thread: handing it to autograd's own, as is the default, is paid once for a
whole network and not for each layer.
"""

import argparse
import itertools
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from timing import back_to_back, ceilings, error, extra_peak, interleaved, scrub
from torch import Tensor, nn

from ressa.files import write_json
from ressa.kernels import effective_weight, masked_reduction, sparse_lora_linear
from ressa.provenance import versions
from ressa.sparsity.mask import pack_mask

RANK, SCALING = 8, 2.0
SIZES = [(4096, 4096), (4096, 11008), (11008, 4096)]  # in → out
TOKENS = [2048, 8192]
CPU_SIZES, CPU_TOKENS = [(256, 256), (256, 1024), (1024, 256)], [1000, 4000]
MIB = 2**20


@dataclass
class Case:
    """One layer's tensors, (in → out), and a batch: x (tokens, in), grad_out (tokens, out)."""

    x: Tensor
    weight: Tensor
    mask: Tensor
    packed: Tensor
    lora_a: Tensor
    lora_b: Tensor
    grad_out: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.x.shape[0], self.weight.shape[1], self.weight.shape[0])


def make_case(
    size: tuple[int, int], tokens: int, pattern: str, device: str, dtype: torch.dtype = torch.bfloat16
) -> Case:
    """Random tensors; the mask keeps the larger half of each four of a row ("2:4") or any half ("50%")."""
    columns, rows = size

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, device=device).mul_(scale).to(dtype)

    weight = draw(rows, columns, scale=columns**-0.5)
    if pattern == "2:4":
        groups = weight.abs().view(rows, -1, 4)
        mask = torch.zeros_like(groups, dtype=torch.bool)
        mask.scatter_(-1, groups.topk(2).indices, True)
        mask = mask.view(rows, columns)
    else:
        mask = torch.rand(rows, columns, device=device) > 0.5
    return Case(
        x=draw(tokens, columns).requires_grad_(),
        weight=weight,
        mask=mask,
        packed=pack_mask(mask),
        lora_a=draw(RANK, columns, scale=columns**-0.5).requires_grad_(),
        lora_b=draw(rows, RANK, scale=RANK**-0.5).requires_grad_(),
        grad_out=draw(tokens, rows),
    )


def peft_layer(case: Case, *, wide_factors: bool) -> nn.Module:
    """PEFT's own LoRA layer over the case's weight; `wide_factors`: A and B in fp32, PEFT's default."""
    rows, columns = case.weight.shape
    linear = nn.Linear(columns, rows, bias=False, device=case.weight.device, dtype=case.weight.dtype)
    linear.weight.data = case.weight
    config = LoraConfig(r=RANK, lora_alpha=int(SCALING * RANK), target_modules=["0"])
    model = get_peft_model(nn.Sequential(linear), config, autocast_adapter_dtype=wide_factors)
    layer: Any = model.get_submodule("base_model.model.0")
    layer.lora_B["default"].weight.data.copy_(case.lora_b.data)
    return layer


def variants(case: Case, smoke: bool) -> dict[str, Any]:
    """Name → a function that runs forward and backward and returns (y, dX, the parameters' gradients…)."""
    x, weight, mask, grad_out = case.x, case.weight, case.mask, case.grad_out
    a, b = case.lora_a, case.lora_b
    full = weight.clone().requires_grad_()
    wide_a, wide_b = (factor.detach().float().requires_grad_() for factor in (a, b))

    def step(forward, *parameters):
        def run():
            y = forward()
            return y, *torch.autograd.grad(y, (x, *parameters), grad_out)

        return run

    def lora(wide_factors: bool):
        layer = peft_layer(case, wide_factors=wide_factors)
        factors = [p for p in layer.parameters() if p.requires_grad]
        return step(lambda: layer(x), *factors)

    def naive(x, weight, mask, a, b):
        return F.linear(x, weight * mask + SCALING * (b @ a) * mask)

    compiled = torch.compile(naive, dynamic=False, backend="aot_eager" if smoke else "inductor")
    return {
        "frozen": step(lambda: F.linear(x, weight)),
        "LoRA (PEFT)": lora(False),
        "LoRA (PEFT), fp32 factors": lora(True),
        "full weight gradient": step(lambda: F.linear(x, full), full),
        "naive SparseLoRA": step(lambda: naive(x, weight, mask, a, b), a, b),
        "naive, torch.compile": step(lambda: compiled(x, weight, mask, a, b), a, b),
        "ours": step(lambda: sparse_lora_linear(x, weight, case.packed, a, b, SCALING), a, b),
        "ours, fp32 factors": step(
            lambda: sparse_lora_linear(x, weight, case.packed, wide_a, wide_b, SCALING), wide_a, wide_b
        ),
    }


def exact(case: Case) -> tuple[Tensor, ...]:
    """y, dX, dA, dB in fp64."""
    x, a, b, grad_out = (t.detach().double() for t in (case.x, case.lora_a, case.lora_b, case.grad_out))
    weight = (case.weight.double() + SCALING * b @ a) * case.mask
    masked = (grad_out.t() @ x).mul_(case.mask)
    return x @ weight.t(), grad_out @ weight, SCALING * b.t() @ masked, SCALING * masked @ a.t()


def floor(case: Case, limits: dict[str, float]) -> dict[str, float]:
    """The three products' arithmetic, the fewest bytes the mask and the factors add, and both as times."""
    tokens, columns, rows = case.shape
    flops = 3 * 2 * tokens * columns * rows
    # W read twice (forward and backward), W' written twice, G read once, the mask read three times.
    bytes_ = 5 * rows * columns * case.weight.element_size() + 3 * case.packed.numel()
    return {
        "flops": flops,
        "products_ms": flops / limits["tflops"] / 1e9,
        "extra_bytes": bytes_,
        "extra_ms": bytes_ / limits["tbytes_per_s"] / 1e9,
    }


def measure(case: Case, rounds: int, device: str, smoke: bool) -> dict[str, dict[str, Any]]:
    """Correctness against fp64 first, then memory, then time, of every variant."""
    runs = variants(case, smoke)
    reference = exact(case)
    found: dict[str, dict[str, Any]] = {name: {} for name in runs}
    for name, run in runs.items():
        run()  # compile, where it applies, before the memory is scrubbed
        scrub(device)
        results = run()
        if "SparseLoRA" in name or name.startswith(("ours", "naive")):
            errors = [error(one, other) for one, other in zip(results, reference, strict=True)]
            found[name]["errors"] = dict(zip(("y", "dX", "dA", "dB"), errors, strict=True))
        del results
    del reference
    for name, run in runs.items():
        found[name]["extra_peak_bytes"] = extra_peak(run, device)
    kernels = {"kernels": lambda: our_kernels(case)} if device == "cuda" else {}
    times = interleaved(runs | kernels, rounds, device)
    for name, run in runs.items():
        found[name].update(times[name])
        found[name]["back_to_back_ms"] = back_to_back(run, 4 * rounds, device)
    if kernels:
        found["ours"]["kernels_ms"] = times["kernels"]["ms"]
    return found


def our_kernels(case: Case) -> object:
    """What ours adds to the three products: a step's kernels without them."""
    buffer = effective_weight(case.weight, case.packed, case.lora_a, case.lora_b, SCALING)
    return masked_reduction(buffer, case.packed, case.lora_a, case.lora_b, SCALING, weight=case.weight)


def judge(case: Case, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """How the targets are met: time over the full weight gradient's, memory over frozen, errors."""
    ours, full = found["ours"], found["full weight gradient"]
    verdict: dict[str, Any] = {"time_ratio": ours["ms"] / full["ms"]}
    verdict["back_to_back_ratio"] = ours["back_to_back_ms"] / full["back_to_back_ms"]
    if case.x.is_cuda:
        verdict["time_bound"] = 1.08 if case.shape[0] >= 8192 else 1.25
    else:
        verdict["time_bound"] = 1.3
    if ours["extra_peak_bytes"] is not None:
        more = ours["extra_peak_bytes"] - found["frozen"]["extra_peak_bytes"]
        verdict["buffers"] = more / (case.weight.numel() * case.weight.element_size())
        verdict["buffers_bound"] = 1.1
    verdict["worst_error"] = max(ours["errors"].values())
    verdict["error_bound"] = 2**-7
    return verdict


def show(case: Case, pattern: str, at: dict[str, float], found: dict, verdict: dict) -> None:
    tokens, columns, rows = case.shape
    print(f"\n{columns} → {rows}, {tokens} tokens, mask {pattern}, {case.x.dtype}, rank {RANK}")
    print(
        f"  floor: {at['flops'] / 1e12:.3f} TFLOP in three products = {at['products_ms']:.3f} ms at the "
        f"measured rate; {at['extra_bytes'] / MIB:.0f} MiB more through memory = {at['extra_ms']:.3f} ms"
    )
    print(f"  {'':28}{'ms':>8}{'p10–p90':>16}{'host':>8}{'in a row':>10}{'peak MiB':>10}   errors y dX dA dB")
    for name, row in found.items():
        peak = row["extra_peak_bytes"]
        memory = "–" if peak is None else f"{peak / MIB:.0f}"
        errors = " ".join(f"{e:.1e}" for e in row.get("errors", {}).values())
        spread = f"{row['ms_p10']:.3f}–{row['ms_p90']:.3f}"
        host = f"{row['host_ms']:.3f}" if "host_ms" in row else "–"
        print(
            f"  {name:28}{row['ms']:8.3f}{spread:>16}{host:>8}{row['back_to_back_ms']:10.3f}{memory:>10}   "
            f"{errors}"
        )
    if "kernels_ms" in found["ours"]:
        print(f"  {'ours, kernels only':28}{found['ours']['kernels_ms']:8.3f}  (without the products)")
    buffers = f", memory frozen + {verdict['buffers']:.2f} buffers (≤ 1.1)" if "buffers" in verdict else ""
    print(
        f"  ours / full weight gradient = {verdict['time_ratio']:.3f} (≤ {verdict['time_bound']}), in a row "
        f"{verdict['back_to_back_ratio']:.3f}{buffers}, worst error {verdict['worst_error']:.1e} "
        f"(≤ {verdict['error_bound']:.1e})"
    )


# -- below the floor ----------------------------------------------------------------------------------------


def below_floor(case: Case, rounds: int) -> dict[str, Any]:
    """The forward product of a 2:4 mask on sparse tensor cores (cuSPARSELt), alone and in the whole step.

    W' is compressed at each step by cuSPARSELt, or was before (which training cannot have), or is written
    compressed by a kernel of ours (`compressed.py`).

    The input's gradient cannot go there: dX = dY·W' sums over the rows of W', and the zeros of a 2:4 mask lie
    two in four along its columns. G = dYᵀx has no sparse operand.
    """
    from compressed import compressed_form, compressed_weight

    x, weight, grad_out = case.x.detach(), case.weight, case.grad_out
    a, b = case.lora_a.detach(), case.lora_b.detach()
    masked = effective_weight(weight, case.packed, a, b, SCALING)
    compressed = torch._cslt_compress(masked)
    form = compressed_form(case.mask)
    algorithm = torch._cslt_sparse_mm_search(compressed, x.t(), transpose_result=True)

    def product(packed: Tensor) -> Tensor:
        y = torch._cslt_sparse_mm(packed, x.t(), transpose_result=True, alg_id=algorithm)
        return y if y.shape == grad_out.shape else y.t()

    def backward() -> tuple[Tensor, ...]:
        buffer = torch.mm(grad_out.t(), x)
        gradients = masked_reduction(buffer, case.packed, a, b, SCALING, weight=weight)
        return torch.mm(grad_out, buffer), *gradients

    def ours() -> tuple[Tensor, ...]:
        return F.linear(x, effective_weight(weight, case.packed, a, b, SCALING)), *backward()

    def sparse_forward() -> tuple[Tensor, ...]:
        effective = effective_weight(weight, case.packed, a, b, SCALING)
        return product(torch._cslt_compress(effective)), *backward()

    def ready_forward() -> tuple[Tensor, ...]:
        return product(compressed), *backward()

    def full() -> tuple[Tensor, ...]:
        return F.linear(x, weight), torch.mm(grad_out, weight), torch.mm(grad_out.t(), x)

    def write_compressed() -> Tensor:
        return compressed_weight(weight, case.packed, a, b, SCALING, form)

    runs = {
        "forward: effective weight": lambda: effective_weight(weight, case.packed, a, b, SCALING),
        "forward: dense product": lambda: F.linear(x, masked),
        "forward: sparse product, compressed before": lambda: product(compressed),
        "forward: compress": lambda: torch._cslt_compress(masked),
        "step: full weight gradient": full,
        "step: ours": ours,
        "step: ours, sparse forward": sparse_forward,
        "step: ours, sparse forward, compressed before": ready_forward,
    }
    if form is not None:
        runs["forward: effective weight, written compressed"] = write_compressed
        runs["step: ours, sparse forward, written compressed"] = lambda: (
            product(write_compressed()),
            *backward(),
        )
    found: dict[str, Any] = {
        "algorithm": algorithm,
        "values_are_a_plain_prefix": form is not None,
        "written_compressed_is_the_same": form is not None
        and torch.equal(product(write_compressed()), product(compressed)),
        "compressed_over_dense": compressed.numel() * compressed.element_size() / (2 * weight.numel()),
        "error": error(product(compressed), x.double() @ masked.double().t()),
        "runs": interleaved(runs, rounds, "cuda"),
    }
    print(f"\nbelow the floor, {' → '.join(map(str, case.shape[1:]))}, {case.shape[0]} tokens, 2:4")
    print(f"  compressed values are a plain prefix: {found['values_are_a_plain_prefix']}, ", end="")
    print(f"written compressed, the same product: {found['written_compressed_is_the_same']}, ", end="")
    print(f"{found['compressed_over_dense']:.4f} of the dense bytes, error {found['error']:.1e}")
    for name, row in found["runs"].items():
        print(f"  {name:48} {row['ms']:8.3f} ms   host {row['host_ms']:8.3f} ms")
    return found


# -- block shapes -------------------------------------------------------------------------------------------


WEIGHT_BLOCKS = [  # block_rows, block_columns, num_warps
    (64, 128, 4), (64, 64, 4), (64, 32, 4), (128, 64, 4), (128, 64, 8), (128, 128, 8), (128, 32, 8),
]  # fmt: skip
REDUCTION_BLOCKS = [  # block_rows, block_columns, num_warps, rank_tile
    (64, 128, 4, 8), (64, 64, 4, 8), (128, 64, 4, 8), (128, 128, 8, 8), (128, 64, 8, 8), (64, 256, 4, 8),
    (64, 128, 4, 16),
]  # fmt: skip
PROGRAMS = [2, 3, 4, 6]  # a multiprocessor
SHOWN = 6  # of the fastest; all are in the JSON
SHARE = 0.2  # of an out×in buffer may be partial sums: they are gone when dX is made, which takes more


def tunable(size: tuple[int, int], wide_factors: bool, device: str) -> dict[tuple[str, frozenset], Any]:
    """(kernel, its block shape as keyword arguments) → a function that runs it."""
    from ressa.kernels import sparse_lora_triton as kernels

    case = make_case(size, 16, "50%", device)
    shape: dict[str, Any]
    out, gradient = torch.empty_like(case.weight), torch.randn_like(case.weight)
    a, b = (t.detach().float() if wide_factors else t.detach() for t in (case.lora_a, case.lora_b))
    factors = (case.packed, a, b, SCALING)
    found: dict[tuple[str, frozenset], Any] = {}
    for rows, columns, warps in WEIGHT_BLOCKS:
        shape = {"block_rows": rows, "block_columns": columns, "num_warps": warps}
        found["weight", frozenset(shape.items())] = partial(
            kernels.effective_weight, case.weight, *factors, out, **shape
        )
    for (rows, columns, warps, tile), programs in itertools.product(REDUCTION_BLOCKS, PROGRAMS):
        shape = {"block_rows": rows, "block_columns": columns, "num_warps": warps, "rank_tile": tile}
        shape["programs"] = programs
        found["reduction", frozenset(shape.items())] = partial(
            kernels.masked_reduction, gradient, *factors, **shape
        )
    return found


def tune(device: str, rounds: int) -> list[dict[str, Any]]:
    """Time both kernels over block shapes and factor types, and use the best shapes for the rest of this run.

    Best: least time relative to the fastest, summed over sizes and factor types, of those whose memory (partial
    sums and results) stays under SHARE of one out×in buffer at every size.
    """
    from ressa.kernels import sparse_lora_triton as kernels

    found: list[dict[str, Any]] = []
    score: dict[tuple[str, frozenset], float] = {}
    for size, wide in itertools.product(SIZES, (False, True)):
        runs = tunable(size, wide, device)
        for key, run in list(runs.items()):
            try:
                run()
            except Exception as problem:  # a shape that needs more than this GPU has
                print(f"  {key[0]} {dict(key[1])}: {type(problem).__name__} {str(problem)[:80]}")
                runs.pop(key)
                score[key] = float("inf")
        times = interleaved({str(key): run for key, run in runs.items()}, rounds, device)
        print(f"\n{size[0]} → {size[1]}, {'fp32' if wide else 'bf16'} factors")
        elements = size[0] * size[1]
        for kernel in ("weight", "reduction"):
            mine = {key: times[str(key)]["ms"] for key in runs if key[0] == kernel}
            moved = elements * (4 if kernel == "weight" else 2) + elements / 8
            for place, (key, ms) in enumerate(sorted(mine.items(), key=lambda item: item[1])):
                share = (extra_peak(runs[key], device) or 0) / elements / 2
                shape = dict(sorted(key[1]))
                line = (
                    f"  {kernel:10}{ms * 1e3:8.1f} µs {moved / ms / 1e9:6.2f} TB/s {share:7.3f} of G  {shape}"
                )
                if place < SHOWN:
                    print(line)
                found.append({"size": size, "fp32_factors": wide, "kernel": kernel, "shape": shape, "ms": ms})
                too_large = kernel == "reduction" and not wide and share > SHARE
                score[key] = score.get(key, 0) + (float("inf") if too_large else ms / min(mine.values()))
    for kernel, function in (("weight", kernels.effective_weight), ("reduction", kernels.masked_reduction)):
        shape = dict(min((key for key in score if key[0] == kernel), key=score.__getitem__)[1])
        (function.__kwdefaults__ or {}).update(shape)
        if kernel == "weight":
            block = (shape["block_rows"], shape["block_columns"])
            (kernels.masked_reduction.__kwdefaults__ or {})["weight_block"] = block
        print(f"best {kernel}: {dict(sorted(shape.items()))}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--output",
        type=Path,
        help="JSON file (default: benchmarks/results/sparse_lora.json; none with --smoke)",
    )
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--below-floor", action="store_true")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to see that everything runs")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() and not options.cpu else "cpu"
    smoke, rounds = options.smoke, 3 if options.smoke else options.rounds
    if device == "cpu" and not (smoke or options.cpu):
        parser.error("this needs a GPU; --smoke runs tiny sizes on the CPU, --cpu a small model's")
    torch.manual_seed(0)
    if options.cpu:
        torch.set_num_threads(1)
    torch.autograd.set_multithreading_enabled(False)
    limits = ceilings(device)
    print(
        f"{versions()}\nmeasured here: {limits['tflops']:.3g} TFLOP/s bf16, {limits['tbytes_per_s']:.3g} TB/s"
    )
    report: dict[str, Any] = {"versions": versions(), "ceilings": limits, "rank": RANK, "cases": []}
    if options.tune:
        report["tune"] = tune(device, rounds)
    sizes, tokens = ([(64, 48), (40, 72)], [16, 32]) if smoke else (SIZES, TOKENS)
    if options.cpu:
        sizes, tokens = CPU_SIZES, CPU_TOKENS
    patterns = itertools.cycle(["2:4", "50%"])
    for size, count in itertools.product(sizes, tokens):
        for pattern in ["2:4", "50%"] if smoke else [next(patterns)]:
            torch.compiler.reset()
            dtype = torch.float32 if options.cpu else torch.bfloat16
            case = make_case(size, count, pattern, device, dtype)
            at = floor(case, limits)
            found = measure(case, rounds, device, smoke)
            verdict = judge(case, found)
            show(case, pattern, at, found, verdict)
            report["cases"].append(
                {"in": size[0], "out": size[1], "tokens": count, "mask": pattern, "floor": at}
                | {"variants": found, "verdict": verdict}
            )
    name = "sparse_lora_cpu.json" if options.cpu else "sparse_lora.json"
    output = options.output or (None if smoke else Path(__file__).parent / "results" / name)
    if output:
        write_json(output, report)
    if options.below_floor and not torch.backends.cusparselt.is_available():
        print("\nbelow the floor: this torch has no cuSPARSELt, or no sparse tensor cores are here")
    elif options.below_floor and device == "cuda":
        report["below_floor"] = []
        for size, count in itertools.product(sizes, tokens):
            found = below_floor(make_case(size, count, "2:4", device), rounds)
            report["below_floor"].append({"in": size[0], "out": size[1], "tokens": count, **found})
            if output:
                write_json(output, report)
    if output:
        print(f"\nwritten: {output}")


if __name__ == "__main__":
    main()
