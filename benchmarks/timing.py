"""Time and memory of functions side by side, on the GPU or the CPU."""

import time
from collections.abc import Callable, Mapping
from statistics import median, quantiles

import torch

Run = Callable[[], object]
_FLUSH_BYTES = 256 * 2**20  # several times the L2 cache of any GPU of today
_HEAD_START = 5_000_000  # GPU cycles, about 2.5 ms: longer than the host takes to launch anything timed here


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def interleaved(runs: Mapping[str, Run], rounds: int, device: str) -> dict[str, dict[str, float]]:
    """Median, 10th and 90th percentile in ms of each run: one after the other, `rounds` times around.

    On a GPU, the GPU's own time: each call starts with a cold L2 cache and behind a kernel that waits until the
    host has launched it whole, so that no gap between two launches is counted (NVBench times so, too). What
    the host takes to launch it is `host_ms`, a median. On the CPU it is processor time, which others on the
    machine disturb least; use one thread.
    """
    on_gpu = device == "cuda"
    flush = torch.empty(_FLUSH_BYTES if on_gpu else 0, dtype=torch.int8, device=device)
    names = list(runs)
    for name in names:
        for _ in range(3):
            runs[name]()
    times: dict[str, list[float]] = {name: [] for name in names}
    host: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            if not on_gpu:
                start = time.process_time()
                runs[name]()
                times[name].append((time.process_time() - start) * 1e3)
                continue
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize()
            flush.zero_()
            torch.cuda._sleep(_HEAD_START)
            begin.record()
            start = time.perf_counter()
            runs[name]()
            host[name].append((time.perf_counter() - start) * 1e3)
            end.record()
            torch.cuda.synchronize()
            times[name].append(begin.elapsed_time(end))
    found = {}
    for name in names:
        deciles = quantiles(times[name], n=10, method="inclusive") if rounds > 1 else times[name] * 9
        found[name] = {"ms": median(times[name]), "ms_p10": deciles[0], "ms_p90": deciles[-1]}
        if on_gpu:
            found[name]["host_ms"] = median(host[name])
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
