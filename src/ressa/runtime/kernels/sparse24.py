"""Sparse weights on a GPU, held once and used for few tokens and for many: 2:4 ones, and those of any pattern."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ressa.runtime.kernels import launches, layout24, split, variants
from ressa.runtime.kernels.inputs import aligned_rows, computing_dtype, is_traced
from ressa.runtime.kernels.variants import MOST_TOKENS
from ressa.runtime.packing import PackedWeight
from ressa.runtime.prepared import PreparedWeight
from ressa.sparsity import pack_mask

FEW_TOKENS = 96
"""Up to here a weight of any pattern is multiplied as it is, by 32 tokens at a time; beyond, it takes less time to
unpack it into a scratch buffer for cuBLAS."""


class Blocks24(PreparedWeight):
    """A 2:4 weight (out, in) in the order of the kernels: 1.125 bytes where bf16 has 2."""

    blocks: Tensor

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype, blocks: Tensor) -> None:
        """blocks: as `layout24` has them."""
        super().__init__()
        self.shape = shape
        self.weight = nn.Parameter(blocks.new_empty(0, dtype=dtype), requires_grad=False)
        self.register_buffer("blocks", blocks, persistent=False)

    @classmethod
    def of(cls, packed: PackedWeight) -> Self:
        return cls(packed.shape, packed.dtype, layout24.to_blocks(packed.values, packed.positions))

    @classmethod
    def stack(cls, weights: Sequence[Self]) -> Self | None:
        if (shape := _stacked_shape(weights)) is None:
            return None
        stacked = cls(shape, weights[0].weight.dtype, torch.cat([weight.blocks for weight in weights]))
        for weight, blocks in zip(weights, _split_like(stacked.blocks, weights), strict=True):
            weight.blocks = blocks
        return stacked

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return F.linear(x, self.dense(), bias)
        x, bias = computing_dtype(x, bias, self.weight.dtype)
        run = torch.ops.ressa.linear24.default if is_traced() else linear24
        return run(x, self.blocks, bias, *self.shape)

    def packed(self) -> PackedWeight:
        values, positions = layout24.from_blocks(self.blocks, *self.shape, self.weight.dtype)
        return PackedWeight(values, positions, self.shape, "2:4")

    def dense(self) -> Tensor:
        return launches.unpack(self.blocks, None, None, *self.shape, self.weight.dtype)


class SplitBlocks(PreparedWeight):
    """A weight (out, in) of any pattern as a 2:4 one and the rest (`split`): at 50 % sparsity 0.80 of a bf16 weight's
    bytes, at 70 % 0.66."""

    blocks: Tensor
    records: Tensor
    offsets: Tensor
    zeros: Tensor

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype, parts: split.Split) -> None:
        super().__init__()
        self.shape = shape
        self.weight = nn.Parameter(parts.blocks.new_empty(0, dtype=dtype), requires_grad=False)
        self.record_bytes = parts.longest()
        for name in ("blocks", "records", "offsets", "zeros"):
            self.register_buffer(name, getattr(parts, name), persistent=False)

    @classmethod
    def of(cls, packed: PackedWeight) -> Self:
        return cls(packed.shape, packed.dtype, split.to_split(packed.dense(), packed.mask()))

    @classmethod
    def stack(cls, weights: Sequence[Self]) -> Self | None:
        if (shape := _stacked_shape(weights)) is None:
            return None
        parts = split.stack([weight._parts() for weight in weights], shape[1])
        stacked = cls(shape, weights[0].weight.dtype, parts)
        begin = 0
        for weight, blocks in zip(weights, _split_like(stacked.blocks, weights), strict=True):
            weight.blocks = blocks
            weight.records = stacked.records[begin : begin + len(weight.records)]
            begin += len(weight.records)
        return stacked

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for buffer in self.buffers())

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return F.linear(x, self.dense(), bias)
        x, bias = computing_dtype(x, bias, self.weight.dtype)
        run = torch.ops.ressa.linear_split.default if is_traced() else linear_split
        return run(x, self.blocks, self.records, self.offsets, bias, *self.shape, self.record_bytes)

    def packed(self) -> PackedWeight:
        dense, mask = split.from_split(self._parts(), *self.shape, self.weight.dtype)
        return PackedWeight(dense[mask], pack_mask(mask), self.shape, "bitmask")

    def dense(self) -> Tensor:
        return launches.unpack(self.blocks, self.records, self.offsets, *self.shape, self.weight.dtype)

    def _parts(self) -> split.Split:
        return split.Split(self.blocks, self.records, self.offsets, self.zeros)


def _stacked_shape(weights: Sequence[Blocks24 | SplitBlocks]) -> tuple[int, int] | None:
    """(out, in) of the weights below one another; None where one ends within a block."""
    if any(weight.shape[0] % layout24.ROWS for weight in weights[:-1]):
        return None
    return sum(weight.shape[0] for weight in weights), weights[0].shape[1]


def _split_like(blocks: Tensor, weights: Sequence[Blocks24 | SplitBlocks]) -> Sequence[Tensor]:
    return blocks.split([len(weight.blocks) for weight in weights])


class Fp8Blocks24(PreparedWeight):
    """A 2:4 weight (out, in) whose kept values are rounded to e4m3, with a float32 scale a row: 0.625 bytes where bf16
    has 2. What it computes is the rounded weight's product, so it stands for no packed weight on disk."""

    blocks: Tensor
    scale: Tensor

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype, blocks: Tensor, scale: Tensor) -> None:
        """scale: float32 (out,)."""
        super().__init__()
        self.shape = shape
        self.weight = nn.Parameter(blocks.new_empty(0, dtype=dtype), requires_grad=False)
        self.register_buffer("blocks", blocks, persistent=False)
        self.register_buffer("scale", scale, persistent=False)

    @classmethod
    def of(cls, packed: PackedWeight) -> Self:
        values, scale = to_fp8(packed.values)
        return cls(packed.shape, packed.dtype, layout24.to_blocks(values, packed.positions), scale[:, 0])

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        x, bias = computing_dtype(x, bias, self.weight.dtype)
        rows, columns = self.shape
        y = x.new_empty((*x.shape[:-1], rows))
        tokens = x.numel() // columns
        x_rows = aligned_rows(x, columns)
        shape = (rows, columns, x_rows.shape[1], x.dtype, x.get_device())
        few = (
            launches.few_tokens(variants.Fp8Decode24, *shape, 0, tokens)
            if 0 < tokens <= MOST_TOKENS
            else None
        )
        if few is None:
            return F.linear(x, self.dense(), bias)
        _in_parts(*few, x_rows, self.blocks, bias, y, scale=self.scale)
        return y

    def packed(self) -> PackedWeight:
        values, positions = layout24.from_blocks(self.blocks, *self.shape, torch.float8_e4m3fn)
        scaled = (values.float() * self.scale[:, None]).to(self.weight.dtype)
        return PackedWeight(scaled, positions, self.shape, "2:4")


def to_fp8(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(n, k) → e4m3 values (n, k) and their scales (n, 1) in float32; the largest of a row becomes 448."""
    most = torch.finfo(torch.float8_e4m3fn).max
    scale = rows.abs().amax(1, keepdim=True).float().clamp(min=1e-12) / most
    return (rows.float() / scale).clamp(-most, most).to(torch.float8_e4m3fn), scale


def linear24(x: Tensor, blocks: Tensor, bias: Tensor | None, rows: int, columns: int) -> Tensor:
    """x (…, columns) → x Wᵀ + bias (…, rows) in x's dtype, fp16 or bf16, summed in fp32; bias (rows) or None.

    Never waits for the device; two runs agree bit for bit.
    """
    y = x.new_empty((*x.shape[:-1], rows))
    tokens, device = x.numel() // columns, x.get_device()
    if tokens:
        x_rows = aligned_rows(x, columns)
        shape = (rows, columns, x_rows.shape[1], x.dtype, device)
        few = launches.few_tokens(variants.Decode24, *shape, 0, tokens) if tokens <= MOST_TOKENS else None
        if few is not None:
            _in_parts(*few, x_rows, blocks, bias, y)
        elif launches.has_prefill(device):
            launches.many_tokens(*shape, tokens)(x_rows, blocks, bias, y)
        else:
            return F.linear(x, launches.unpack(blocks, None, None, rows, columns, x.dtype), bias)
    return y


def linear_split(
    x: Tensor,
    blocks: Tensor,
    records: Tensor,
    offsets: Tensor,
    bias: Tensor | None,
    rows: int,
    columns: int,
    record_bytes: int,
) -> Tensor:
    """The same for a weight of any pattern. record_bytes: of its longest record."""
    y = x.new_empty((*x.shape[:-1], rows))
    tokens = x.numel() // columns
    if tokens:
        few = None
        if tokens <= FEW_TOKENS:
            x_rows = aligned_rows(x, columns)
            shape = (rows, columns, x_rows.shape[1], x.dtype, x.get_device())
            few = launches.few_tokens(variants.Split24, *shape, record_bytes, tokens)
        if few is None:
            return F.linear(x, launches.unpack(blocks, records, offsets, rows, columns, x.dtype), bias)
        _in_parts(*few, x_rows, blocks, bias, y, records=records, offsets=offsets)
    return y


def _in_parts(
    run: launches.Few,
    most: int,
    x_rows: Tensor,
    blocks: Tensor,
    bias: Tensor | None,
    y: Tensor,
    *,
    records: Tensor | None = None,
    offsets: Tensor | None = None,
    scale: Tensor | None = None,
) -> None:
    """As many tokens at once as the kernel takes."""
    tokens = x_rows.shape[0]
    if tokens <= most:
        run(x_rows, blocks, records, offsets, scale, bias, y)
        return
    y = y.view(tokens, -1)
    for begin in range(0, tokens, most):
        part = slice(begin, begin + most)
        run(x_rows[part], blocks, records, offsets, scale, bias, y[part])


_library = torch.library.Library("ressa", "FRAGMENT")
_library.define(
    "linear24(Tensor x, Tensor blocks, Tensor? bias, int rows, int columns) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    "linear_split(Tensor x, Tensor blocks, Tensor records, Tensor offsets, Tensor? bias, int rows, int columns, "
    "int record_bytes) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.impl("linear24", linear24, "CUDA")
_library.impl("linear_split", linear_split, "CUDA")


@torch.library.register_fake("ressa::linear24", lib=_library)
def _(x: Tensor, blocks: Tensor, bias: Tensor | None, rows: int, columns: int) -> Tensor:
    return x.new_empty((*x.shape[:-1], rows))


@torch.library.register_fake("ressa::linear_split", lib=_library)
def _(
    x: Tensor,
    blocks: Tensor,
    records: Tensor,
    offsets: Tensor,
    bias: Tensor | None,
    rows: int,
    columns: int,
    record_bytes: int,
) -> Tensor:
    return x.new_empty((*x.shape[:-1], rows))
