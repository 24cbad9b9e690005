"""Which variant of a kernel is fastest for a layer and a number of tokens: all that fit, timed on this card.

Times are those of decoding: many layers' weights one after the other in a CUDA graph, so that none is in the L2
cache when its turn comes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ressa.errors import RunError
from ressa.files import write_json
from ressa.runtime.kernels import driver, launches, variants
from ressa.runtime.kernels.sparse24 import Blocks24, Fp8Blocks24, SplitBlocks
from ressa.runtime.kernels.variants import (
    MOST_SPLIT_TOKENS,
    MOST_TOKENS,
    Decode24,
    Fp8Decode24,
    Prefill24,
    Split24,
)

Weight = Blocks24 | Fp8Blocks24 | SplitBlocks
_KINDS: dict[type, type[Decode24]] = {
    Blocks24: Decode24,
    Fp8Blocks24: Fp8Decode24,
    SplitBlocks: Split24,
}
_Case = tuple[Decode24 | Prefill24, Callable[[Weight, Tensor, Tensor], None]]

_MAINS = 3  # of the fastest variants for many tokens that are tried with tails
_MOST_ERROR = 2e-2  # of a variant's output against the unpacked weight's, relative: beyond, it is broken


def time_in_graph(calls: Sequence[Callable[[], object]], rounds: int = 11) -> float:
    """Median microseconds of one of the calls, all captured into one CUDA graph and replayed."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    return time_events(graph.replay, rounds) / len(calls)


def time_events(run: Callable[[], object], rounds: int) -> float:
    """Median microseconds of a run by the device's own clock, after one that does not count."""
    run()
    times = []
    for _ in range(rounds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3)
    return median(times)


def tune(weights: Iterable[Any], token_counts: Sequence[int]) -> Iterator[tuple[dict[str, Any], float]]:
    """Find the fastest variants for the shapes among these prepared weights, and keep them for this machine's card.

    Yields each entry of the table (`variants.entry`) with its microseconds, when it is found and kept.
    """
    groups: dict[tuple[type, tuple[int, int]], list[Weight]] = {}
    for weight in weights:
        if isinstance(weight, Weight):
            groups.setdefault((type(weight), weight.shape), []).append(weight)
    for (_, shape), same in groups.items():
        several = _larger_than_cache(same)
        for tokens in token_counts:
            ranked = ranking(several, tokens) if tunable(same[0], tokens) else []
            if ranked:
                microseconds, best = ranked[0]
                found = variants.entry(shape, tokens, best)
                keep({best.kernel: [found]})
                yield found, microseconds


def _larger_than_cache(weights: Sequence[Weight]) -> list[Weight]:
    """So many of the weights, or copies of one, that the L2 cache holds none until its turn comes again."""
    size = sum(buffer.nbytes for buffer in weights[0].buffers())
    cache = torch.cuda.get_device_properties(weights[0].weight.device).L2_cache_size
    count = min(64, -(-3 * cache // size) + 1)
    return [*weights[:count], *(copy(weights[0]) for _ in range(count - len(weights)))]


def copy(weight: Weight) -> Weight:
    """The same weight elsewhere in memory."""
    other = object.__new__(type(weight))
    buffers = {name: buffer.clone() for name, buffer in weight.named_buffers()}
    other.__dict__ = {**weight.__dict__, "_buffers": buffers}
    return other


def tunable(weight: Weight, tokens: int) -> bool:
    """Whether there is anything to choose; beyond few tokens a weight of any pattern is unpacked."""
    if isinstance(weight, SplitBlocks):
        return tokens <= MOST_SPLIT_TOKENS
    if isinstance(weight, Fp8Blocks24):
        return tokens <= MOST_TOKENS
    return tokens <= MOST_TOKENS or launches.has_prefill(weight.weight.get_device())


def ranking(weights: Sequence[Weight], tokens: int) -> list[tuple[float, Any]]:
    """(microseconds, variant) of all that fit, fastest first. weights: some of one shape, together larger than L2.

    Raises RunError if a variant's results are wrong.
    """
    rows, columns = weights[0].shape
    like = weights[0].weight
    x = torch.randn(tokens, columns, dtype=like.dtype, device=like.device)
    exact = torch.nn.functional.linear(x.float(), weights[0].dense().float())
    y = torch.empty(tokens, rows, dtype=like.dtype, device=like.device)
    found: list[tuple[float, Any]] = []

    def measure(cases: Iterable[_Case]) -> None:
        for variant, run in cases:
            y.fill_(torch.nan)
            run(weights[0], x, y)
            wrong = float((y - exact).norm() / exact.norm())
            if not wrong < _MOST_ERROR:
                raise RunError(
                    f"{variant} is wrong on {tokens} tokens of {rows} × {columns}: error {wrong:.1e}."
                )
            calls = [lambda run=run, weight=weight: run(weight, x, y) for weight in weights]
            found.append((time_in_graph(calls, rounds=5), variant))
        found.sort(key=lambda pair: pair[0])

    measure(_cases(weights[0], tokens, x))
    if tokens > variants.MOST_TOKENS:
        measure(_with_tails([variant for _, variant in found[:_MAINS]], weights[0], tokens, x))
    return found


def _with_tails(mains: Sequence[Prefill24], weight: Weight, tokens: int, x: Tensor) -> Iterator[_Case]:
    """Variants for many tokens with another for the rows that are left over, where there are such."""
    device = x.get_device()
    limit = driver.shared_limit(device)
    multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
    for main in mains:
        for tail in (v for v in variants.prefill24_candidates() if v.cluster_m * v.cluster_n <= 2):
            both = replace(main, tail=astuple(tail)[:5])
            if tail.shared <= limit and len(both.parts(weight.shape[0], tokens, multiprocessors)) > 1:
                shape = (*weight.shape, weight.shape[1], x.dtype, device)
                yield both, _many(launches.prefill_with(both, *shape, tokens))


def _cases(weight: Weight, tokens: int, x: Tensor) -> list[_Case]:
    rows, columns = weight.shape
    device = x.get_device()
    limit = driver.shared_limit(device)
    shape = (rows, columns, columns, x.dtype, device)
    if tokens > variants.MOST_TOKENS:
        prefill = [variant for variant in variants.prefill24_candidates() if variant.shared <= limit]
        return [(v, _many(launches.prefill_with(v, *shape, tokens))) for v in prefill]
    kind = _KINDS[type(weight)]
    bytes_ = weight.record_bytes if isinstance(weight, SplitBlocks) else 0
    few = variants.candidates(kind, tokens, columns, bytes_, limit)
    return [(v, _few(launches.decode_with(v, *shape, bytes_, tokens))) for v in few]


def _few(launch: launches.Few) -> Callable[[Weight, Tensor, Tensor], None]:
    def run(weight: Weight, x: Tensor, y: Tensor) -> None:
        names = ("blocks", "records", "offsets", "scale")
        blocks, records, offsets, scale = (getattr(weight, name, None) for name in names)
        launch(x, weight.weight if blocks is None else blocks, records, offsets, scale, None, y)

    return run


def _many(launch: launches.Many) -> Callable[[Weight, Tensor, Tensor], None]:
    def run(weight: Weight, x: Tensor, y: Tensor) -> None:
        assert isinstance(weight, Blocks24), "no other has a kernel for many tokens"
        launch(x, weight.blocks, None, y)

    return run


def keep(found: dict[str, list[dict[str, Any]]]) -> None:
    """Write entries (`variants.entry`) by kernel into the user's table, in place of those for the same case."""
    table = variants.user_table()
    for kernel, entries in found.items():
        cases = {_case(entry) for entry in entries}
        table[kernel] = [old for old in table.get(kernel, []) if _case(old) not in cases] + entries
    write_json(variants.user_table_path(), table)
    variants.forget()
    launches.forget()


def _case(entry: dict[str, Any]) -> tuple[int, int, int]:
    return entry["rows"], entry["columns"], entry["tokens"]
