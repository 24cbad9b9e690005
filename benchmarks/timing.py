"""Time and memory of functions side by side, on the GPU or the CPU."""

import time
from collections.abc import Callable, Mapping
from statistics import median, quantiles

import torch

Run = Callable[[], object]
_FLUSH_BYTES = 256 * 2**20  # several times the L2 cache of any GPU of today


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def interleaved(runs: Mapping[str, Run], rounds: int, device: str) -> dict[str, dict[str, float]]:
    """Median, 10th and 90th percentile in ms of each run: one after the other, `rounds` times around.

    On a GPU each call starts with a cold L2 cache and is timed by events, so the time a call takes on the
    host shows where, and only where, the GPU has to wait for it. On the CPU it is processor time, which
    others on the machine disturb least; use one thread.
    """
    flush = torch.empty(_FLUSH_BYTES, dtype=torch.int8, device=device) if device == "cuda" else None
    names = list(runs)
    for name in names:
        for _ in range(3):
            runs[name]()
    synchronize(device)
    marks: dict[str, list[tuple]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            if flush is None:
                start = time.process_time()
                runs[name]()
                marks[name].append((start, time.process_time()))
                continue
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            flush.zero_()
            begin.record()
            runs[name]()
            end.record()
            marks[name].append((begin, end))
    synchronize(device)
    found = {}
    for name, pairs in marks.items():
        times = [(end - begin) * 1e3 if flush is None else begin.elapsed_time(end) for begin, end in pairs]
        deciles = quantiles(times, n=10, method="inclusive") if len(times) > 1 else times * 9
        found[name] = {"ms": median(times), "ms_p10": deciles[0], "ms_p90": deciles[-1]}
    return found


def back_to_back(run: Run, calls: int, device: str) -> float:
    """Wall-clock ms a call (processor time on the CPU), `calls` in a row with a warm cache.

    On a GPU that is the larger of the GPU's and the host's time.
    """
    clock = time.perf_counter if device == "cuda" else time.process_time
    run()
    synchronize(device)
    start = clock()
    for _ in range(calls):
        run()
    synchronize(device)
    return (clock() - start) / calls * 1e3


def extra_peak(run: Run, device: str) -> int | None:
    """Bytes allocated at the peak of one warm call beyond those allocated before it; None on the CPU."""
    if device != "cuda":
        return None
    run()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = run()
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() - before


def graphed(run: Run) -> Run:
    """`run` as the replay of a CUDA graph: no time on the host at all."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()

    def replay() -> object:
        graph.replay()
        return result

    return replay


def ceilings(device: str) -> dict[str, float]:
    """Measured on this device: bf16 matrix product (TFLOP/s) and copy (TB/s, bytes read plus written)."""
    size, copied = (8192, 2**31) if device == "cuda" else (512, 2**24)
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.empty(copied, dtype=torch.int8, device=device).random_(-128, 127)
    target = torch.empty_like(source)
    rounds = 20 if device == "cuda" else 3
    found = interleaved({"product": lambda: a @ b, "copy": lambda: target.copy_(source)}, rounds, device)
    return {
        "tflops": 2 * size**3 / found["product"]["ms"] / 1e9,
        "tbytes_per_s": 2 * copied / found["copy"]["ms"] / 1e9,
    }


def scrub(device: str) -> None:
    """Fill the memory that the next calls will be given with NaN, so that an unwritten output is seen."""
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.full((2**31,), torch.nan, dtype=torch.float32, device=device)


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """‖found − exact‖ / ‖exact‖."""
    return ((found.double() - exact).norm() / exact.norm()).item()
