"""The kernels for sparse weights in one size each, made once for a layer's shape and a number of tokens."""

import ctypes
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from ressa.runtime.kernels import driver, layout24, split
from ressa.runtime.kernels.variants import (
    MOST_SPLIT_TOKENS,
    MOST_TOKENS,
    Decode24,
    Prefill24,
    candidates,
    choose,
    prefill24_candidates,
)

Few = Callable[[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor], None]
"""A launch for few tokens: x, blocks, records, offsets, scale, bias, y."""
Many = Callable[[Tensor, Tensor, Tensor | None, Tensor], None]
"""A launch for many tokens: x, blocks, bias, y."""


class _Decode(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("weight", "x", "y", "bias", "scale")),
        *(
            (name, ctypes.c_int)
            for name in ("rows", "columns", "row_blocks", "column_blocks", "tokens", "x_stride", "splits")
        ),
        *((name, ctypes.c_uint) for name in ("x_bytes", "x_part", "record_bytes")),
        *((name, ctypes.c_void_p) for name in ("records", "offsets")),
    ]


class _Prefill(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("weight", "y", "bias")),
        *(
            (name, ctypes.c_int)
            for name in ("rows", "row_blocks", "column_blocks", "tokens", "tiles_m", "tiles_n", "y_stride")
        ),
    ]


class _Unpack(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("weight", "dense")),
        *((name, ctypes.c_int) for name in ("rows", "columns", "row_blocks", "column_blocks")),
        *((name, ctypes.c_void_p) for name in ("records", "offsets")),
    ]


@lru_cache(maxsize=4096)
def few_tokens(
    kind: type[Decode24],
    rows: int,
    columns: int,
    width: int,
    dtype: torch.dtype,
    device: int,
    record_bytes: int,
    tokens: int,
) -> tuple[Few, int] | None:
    """The kernel for these tokens, and how many of them it takes at once: all, if they are few and their columns fit.

    width: columns of x, `columns` or some more than W has, which must be zeros. record_bytes: of the longest record,
    0 for a weight that has none. None where not even one token's columns fit.
    """
    limit, one_cta = driver.shared_limit(device), torch.cuda.get_device_capability(device) < (9, 0)
    most = min(tokens, MOST_SPLIT_TOKENS if record_bytes else MOST_TOKENS)
    while True:
        variant = choose(
            (rows, columns),
            most,
            candidates(kind, most, columns, record_bytes, limit),
            lambda variant: variant.splits == 1 or not one_cta,
        )
        if variant is not None:
            return decode_with(variant, rows, columns, width, dtype, device, record_bytes, most), most
        if most == 1:
            return None
        most = -(-most // 2)


def decode_with(
    variant: Decode24,
    rows: int,
    columns: int,
    width: int,
    dtype: torch.dtype,
    device: int,
    record_bytes: int,
    most: int,
) -> Few:
    """The kernel for up to `most` tokens in one size; the rest as for `few_tokens`."""
    row_blocks, column_blocks = -(-rows // layout24.ROWS), -(-columns // layout24.COLUMNS)
    room = variant.x_room(most, columns, record_bytes, driver.shared_limit(device))
    kernel = driver.kernel(
        "decode24",
        {"BF16": int(dtype == torch.bfloat16), **variant.macros(room)},
        device,
        grid=-(-rows // variant.rows) * variant.splits,
        threads=variant.warps * 32,
        shared=variant.shared(most, columns, record_bytes, room),
        cluster=variant.splits,
        overlap=True,
    )
    x_bytes, x_part = variant.x_bytes(columns, room), variant.x_part(columns)

    def run(
        x: Tensor,
        blocks: Tensor,
        records: Tensor | None,
        offsets: Tensor | None,
        scale: Tensor | None,
        bias: Tensor | None,
        y: Tensor,
    ) -> None:
        sizes = (
            rows, width, row_blocks, column_blocks, x.shape[0], x.stride(0), variant.splits, x_bytes, x_part,
            record_bytes, _pointer(records), _pointer(offsets),
        )  # fmt: skip
        weight = blocks.data_ptr()
        kernel(_Decode(weight, x.data_ptr(), y.data_ptr(), _pointer(bias), _pointer(scale), *sizes))

    return run


def has_prefill(device: int) -> bool:
    """Whether the kernel for many tokens runs there: it needs sm_90a's wgmma."""
    return torch.cuda.get_device_capability(device) == (9, 0)


@lru_cache(maxsize=4096)
def many_tokens(rows: int, columns: int, width: int, dtype: torch.dtype, device: int, tokens: int) -> Many:
    """The kernel for these tokens and a 2:4 weight; the rest as for `few_tokens`."""
    limit = driver.shared_limit(device)
    variant = choose((rows, columns), tokens, prefill24_candidates(), lambda variant: variant.shared <= limit)
    assert variant is not None, "every Hopper card has the memory of the smallest"
    return prefill_with(variant, rows, columns, width, dtype, device, tokens)


def prefill_with(
    variant: Prefill24, rows: int, columns: int, width: int, dtype: torch.dtype, device: int, tokens: int
) -> Many:
    """The kernel for many tokens in one size, or in two, one after the other; the rest as for `few_tokens`."""
    multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
    parts = [
        _prefill_part(size, rows, range(begin, end), columns, width, dtype, device, tokens)
        for size, begin, end in variant.parts(rows, tokens, multiprocessors)
    ]
    if len(parts) == 1:
        return parts[0]

    def run(x: Tensor, blocks: Tensor, bias: Tensor | None, y: Tensor) -> None:
        for part in parts:
            part(x, blocks, bias, y)

    return run


def _prefill_part(
    variant: Prefill24,
    rows: int,
    part: range,
    columns: int,
    width: int,
    dtype: torch.dtype,
    device: int,
    tokens: int,
) -> Many:
    """The kernel for a part of the rows, which begins with a block."""
    row_blocks, column_blocks = -(-len(part) // layout24.ROWS), -(-columns // layout24.COLUMNS)
    m, n = variant.cluster_m, variant.cluster_n
    tiles_m = -(-row_blocks // (4 * variant.warpgroups * m)) * m
    tiles_n = -(-tokens // (variant.tokens * n)) * n
    kernel = driver.kernel(
        "prefill24",
        {"BF16": int(dtype == torch.bfloat16), **variant.macros()},
        device,
        grid=tiles_m * tiles_n,
        threads=128 * (variant.warpgroups + 1),
        shared=variant.shared,
        cluster=m * n,
        overlap=True,
    )
    box = (variant.tokens // m, 64)
    # Where x lies changes from call to call, but not its address often: allocators hand out the same ones again.
    describe = lru_cache(maxsize=16)(driver.tensor_map)
    first, size = (
        part.start // layout24.ROWS * column_blocks * layout24.block_bytes(),
        dtype.itemsize * part.start,
    )

    def run(x: Tensor, blocks: Tensor, bias: Tensor | None, y: Tensor) -> None:
        kernel(
            describe(x.data_ptr(), tokens, width, x.stride(0), box),
            _Prefill(
                blocks.data_ptr() + first, y.data_ptr() + size, None if bias is None else bias.data_ptr() + size,
                len(part), row_blocks, column_blocks, tokens, tiles_m, tiles_n, rows,
            ),
        )  # fmt: skip

    return run


def unpack(
    blocks: Tensor,
    records: Tensor | None,
    offsets: Tensor | None,
    rows: int,
    columns: int,
    dtype: torch.dtype,
) -> Tensor:
    """W (rows, columns)."""
    dense = torch.empty(rows, columns, dtype=dtype, device=blocks.device)
    row_blocks, column_blocks, _ = blocks.shape
    kernel = driver.kernel(
        "unpack24",
        {"BF16": 1, "RESIDUAL": int(records is not None)},
        blocks.get_device(),
        grid=-(-row_blocks * -(-column_blocks // split.BLOCKS) // 8),
        threads=256,
        shared=0,
    )
    kernel(
        _Unpack(
            blocks.data_ptr(), dense.data_ptr(), rows, columns, row_blocks, column_blocks, _pointer(records),
            _pointer(offsets),
        )
    )  # fmt: skip
    return dense


def forget() -> None:
    """Choose variants anew."""
    few_tokens.cache_clear()
    many_tokens.cache_clear()


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
