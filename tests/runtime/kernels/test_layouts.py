"""Weights laid out for the kernels multiply as they should when their instructions are emulated, and come back."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mma_emulation import sparse_product
from runtime_cases import SHAPES, mask_24, mask_any, packed

from ressa.runtime.kernels import layout24, sparse24, split
from ressa.runtime.packing import PackedWeight

SMALL = [shape for shape in SHAPES if shape[0] * shape[1] <= 64 * 512]


def as_floats(words: torch.Tensor) -> np.ndarray:
    """int32 words (…) of two float16 values → (…, 2)."""
    return words.contiguous().numpy().view(np.float16).reshape(*words.shape, 2).astype(np.float64)


def as_words(words: torch.Tensor) -> np.ndarray:
    return words.contiguous().numpy().view(np.uint32)


def padded(x: np.ndarray, columns: int) -> np.ndarray:
    return np.pad(x, ((0, 0), (0, columns - x.shape[1])))


def products_of_blocks(blocks: torch.Tensor, x: np.ndarray) -> np.ndarray:
    """x (8, columns) times the 2:4 weight that lies in these blocks, transposed, as the kernels compute it."""
    high, wide, _ = blocks.shape
    y, x_padded = np.zeros((8, high * 32)), padded(x, wide * 64)
    for row, column in np.ndindex(high, wide):
        block = blocks[row, column]
        metadata = as_words(block[1024:].view(torch.int32)).reshape(32, 2)
        for step, tile in np.ndindex(2, 2):
            begin = (step * 2 + tile) * 256
            registers = as_floats(block[begin : begin + 256].view(torch.int32).view(32, 4))
            part = x_padded[:, column * 64 + step * 32 :][:, :32].T
            y[:, row * 32 + tile * 16 :][:, :16] += sparse_product(registers, part, metadata[:, step], tile).T
    return y


@pytest.mark.parametrize("shape", SMALL, ids=str)
def test_blocks_multiply_as_the_weight_does(shape):
    torch.manual_seed(0)
    weight = packed(mask_24(*shape), torch.float16)
    x = np.random.default_rng(0).standard_normal((8, shape[1]))
    y = products_of_blocks(layout24.to_blocks(weight.values, weight.positions), x)
    np.testing.assert_allclose(y[:, : shape[0]], x @ weight.dense().double().numpy().T, atol=1e-12)


@pytest.mark.parametrize("shape", SMALL, ids=str)
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.8])
def test_blocks_and_the_rest_multiply_as_the_weight_does(shape, sparsity):
    torch.manual_seed(0)
    mask = mask_any(*shape, sparsity)
    dense = packed(mask, torch.float16).dense()
    parts = split.to_split(dense, mask)
    x = np.random.default_rng(0).standard_normal((8, shape[1]))
    y = products_of_blocks(parts.blocks, x)
    high, wide, _ = parts.blocks.shape
    row_records = -(-wide // split.BLOCKS)
    x_padded = padded(x, wide * 64)
    last_two = np.full(32, 0xEEEEEEEE)  # columns 2 and 3 of every group
    for row, record in np.ndindex(high, row_records):
        begin, end = (int(offset) for offset in parts.offsets[row * row_records + record :][:2])
        content = parts.records[begin:end]
        masks = as_words(content[: split.MASK_ROWS]).reshape(32, 2)
        places = np.full(32, split.MASK_ROWS)
        for block in range(min(split.BLOCKS, wide - record * split.BLOCKS)):
            groups = np.zeros((32, 16, 2))  # lane, group
            for lane in range(32):
                bits = int(masks[lane, block // 2]) >> block % 2 * 16
                for group in range(16):
                    if bits >> group & 1:
                        groups[lane, group] = as_floats(content[places[lane], lane : lane + 1])[0]
                        places[lane] += 1
            for step, tile in np.ndindex(2, 2):
                first = step * 8 + tile * 4
                part = x_padded[:, (record * split.BLOCKS + block) * 64 + step * 32 :][:, :32].T
                found = sparse_product(groups[:, first : first + 4], part, last_two, tile)
                y[:, row * 32 + tile * 16 :][:, :16] += found.T
        assert places.max() == end - begin, "a record is as long as its fullest lane"
    np.testing.assert_allclose(y[:, : shape[0]], x @ dense.double().numpy().T, atol=1e-12)


def widened(values: np.ndarray, bf16: bool) -> np.ndarray:
    """e4m3 bytes as floats by the steps of `widen_fp8` in cuda/common.cuh, each rounded as the GPU would."""
    shift, rest, bias = (4, 0x07F0, 2.0**120) if bf16 else (1, 0x3F80, 2.0**8)
    spread = values.astype(np.uint16) << 8
    bits = spread & 0x8000 | spread >> shift & rest
    if not bf16:
        return bits.view(np.float16).astype(np.float64) * bias
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64) * bias


@pytest.mark.parametrize("bf16", [True, False])
def test_every_value_of_one_byte_is_widened_exactly(bf16):
    codes = np.delete(np.arange(256, dtype=np.uint8), [0x7F, 0xFF])  # these are NaN
    exact = torch.from_numpy(codes).view(torch.float8_e4m3fn).double().numpy()
    found = widened(codes, bf16)
    np.testing.assert_array_equal(found, exact)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(exact))


@pytest.mark.parametrize("shape", SMALL, ids=str)
def test_blocks_of_one_byte_values_multiply_as_the_rounded_weight_does(shape):
    torch.manual_seed(0)
    weight = packed(mask_24(*shape), torch.bfloat16)
    prepared = sparse24.Fp8Blocks24.of(weight)
    high, wide, _ = prepared.blocks.shape
    x = np.random.default_rng(0).standard_normal((8, shape[1]))
    y, x_padded = np.zeros((8, high * 32)), padded(x, wide * 64)
    for row, column in np.ndindex(high, wide):
        block = prepared.blocks[row, column].contiguous().view(torch.uint8).numpy()
        metadata = block[1024:].copy().view(np.uint32).reshape(32, 2)
        for step, tile in np.ndindex(2, 2):
            begin = (step * 2 + tile) * 256
            registers = widened(block[begin : begin + 256], bf16=True).reshape(32, 4, 2)
            part = x_padded[:, column * 64 + step * 32 :][:, :32].T
            y[:, row * 32 + tile * 16 :][:, :16] += sparse_product(registers, part, metadata[:, step], tile).T
    y = y[:, : shape[0]] * prepared.scale.double().numpy()
    values, _ = layout24.from_blocks(prepared.blocks, *shape, torch.float8_e4m3fn)
    rounded = PackedWeight(
        values.float() * prepared.scale[:, None], weight.positions, weight.shape, "2:4"
    ).dense()
    np.testing.assert_allclose(y, x @ rounded.double().numpy().T, rtol=1e-6, atol=1e-6)
    error = float((rounded - weight.dense().float()).norm() / weight.dense().float().norm())
    assert 0.01 < error < 0.04  # of three bits of mantissa
    assert prepared.blocks.nbytes == high * wide * 1280


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@settings(deadline=None, max_examples=40)
@given(st.integers(1, 70), st.integers(1, 40), st.integers(0, 10), st.integers(0, 2**32))
def test_every_bit_comes_back(dtype, rows, groups, tenths, seed):
    torch.manual_seed(seed)
    weight = packed(mask_24(rows, 4 * groups), dtype)
    values, positions = layout24.from_blocks(
        layout24.to_blocks(weight.values, weight.positions), *weight.shape, dtype
    )
    assert torch.equal(values.view(torch.int16), weight.values.view(torch.int16))
    assert torch.equal(positions, weight.positions)
    mask = mask_any(rows, 3 * groups, tenths / 10)
    dense = packed(mask, dtype).dense()
    if mask.any():
        dense[tuple(mask.nonzero()[0])] = 0.0  # kept all the same
    back, its_mask = split.from_split(split.to_split(dense, mask), *mask.shape, dtype)
    assert torch.equal(back.view(torch.int16), dense.view(torch.int16))
    assert torch.equal(its_mask, mask)


@pytest.mark.parametrize("last", [32, 37])
@pytest.mark.parametrize("form", ["2:4", "bitmask"])
def test_stacked_weights_are_each_others_memory_and_give_every_bit_back(form, last):
    torch.manual_seed(0)
    columns = 4 * 67
    masks = [
        mask_24(rows, columns) if form == "2:4" else mask_any(rows, columns, 0.6) for rows in (64, 96, last)
    ]
    weights = [packed(mask, torch.bfloat16) for mask in masks]
    kind = sparse24.Blocks24 if form == "2:4" else sparse24.SplitBlocks
    parts = [kind.of(weight) for weight in weights]
    sizes = [sum(buffer.nbytes for buffer in part.buffers()) for part in parts]
    whole = kind.stack(parts)
    assert whole.shape == (64 + 96 + last, columns)
    dense = torch.cat([weight.dense() for weight in weights])
    assert torch.equal(whole.packed().dense().view(torch.int16), dense.view(torch.int16))
    assert torch.equal(whole.packed().mask(), torch.cat(masks))
    for part, weight, size in zip(parts, weights, sizes, strict=True):
        back = part.packed()
        assert torch.equal(back.values.view(torch.int16), weight.values.view(torch.int16))
        assert torch.equal(back.positions, weight.positions)
        assert sum(buffer.nbytes for buffer in part.buffers()) == size
        assert part.blocks.untyped_storage().data_ptr() == whole.blocks.untyped_storage().data_ptr()
    assert kind.stack(parts[::-1]) is None or last % 32 == 0
