"""The canonical form: nothing is lost, nothing is guessed from a value, and it is as small as promised."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ressa.errors import RunError
from ressa.runtime.packing import PackedWeight, form_of, pack
from ressa.sparsity import NM, Unstructured, parse_pattern

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def same_bits(a: Tensor, b: Tensor) -> bool:
    bits = [tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in (a, b)]
    return (a.dtype, a.shape) == (b.dtype, b.shape) and torch.equal(*bits)


def pruned(rows: int, width: int, pattern: str, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A weight with kept zeros of both signs, infinities and NaN among its values, and its mask."""
    generator = torch.Generator().manual_seed(seed)
    mask = parse_pattern(pattern).select(torch.rand(rows, width, generator=generator))
    weight = torch.randn(rows, width, generator=generator)
    odd = torch.tensor([0.0, -0.0, torch.inf, torch.nan])
    chosen = torch.randint(len(odd) * 3, (rows, width), generator=generator)
    weight = torch.where(chosen < len(odd), odd[chosen.clamp(max=len(odd) - 1)], weight)
    return weight.to(dtype).masked_fill(~mask, 0), mask


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 9),
    groups=st.integers(0, 9),
    pattern=st.sampled_from(["2:4", "1:4", "4:8", "0.5", "0.7", "0.5@layer", "0"]),
    spare=st.integers(0, 7),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 1000),
)
def test_unpacking_gives_the_same_bits(rows, groups, pattern, spare, dtype, seed):
    width = groups * 8 if ":" in pattern else groups * 8 + spare
    weight, mask = pruned(rows, width, pattern, dtype, seed)
    packed = pack(weight, mask)
    packed.check()
    assert same_bits(packed.dense(), weight)
    assert torch.equal(packed.mask(), mask)
    assert packed.zeros() == int((weight == 0).sum())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("pattern", "share"), [("2:4", 0.57), ("0.5", 0.57), ("4:8", 0.57), ("0.7", 0.37)])
def test_is_as_small_as_promised(pattern, share, dtype):
    weight, mask = pruned(64, 1024, pattern, dtype)
    assert pack(weight, mask).nbytes <= share * weight.nbytes


def test_a_mask_of_several_chunks_comes_back_whole():
    weight, mask = pruned(3000, 3001, "0.6@layer", torch.bfloat16)
    packed = pack(weight, mask)
    assert same_bits(packed.dense(), weight)
    assert torch.equal(packed.mask(), mask)


def test_only_a_mask_of_exactly_two_in_four_is_stored_as_2_4():
    mask = NM(2, 4).select(torch.rand(4, 16))
    assert form_of(mask) == "2:4"
    mask[0, :4] = torch.tensor([True, False, False, False])
    assert form_of(mask) == "bitmask"
    assert form_of(NM(4, 8).select(torch.tensor([[1.0, 1, 1, 1, 0, 0, 0, 0]]))) == "bitmask"
    assert form_of(Unstructured(0.5).select(torch.rand(4, 18))) == "bitmask"


def test_what_lies_outside_the_mask_is_refused_even_if_it_is_minus_zero():
    weight, mask = torch.zeros(2, 4), torch.zeros(2, 4, dtype=torch.bool)
    weight[1, 3] = -0.0
    with pytest.raises(RunError, match="outside the mask"):
        pack(weight, mask)


@pytest.mark.parametrize("pattern", ["2:4", "0.5"])
def test_damage_is_found(pattern):
    weight, mask = pruned(6, 20, pattern, torch.float32)
    good = pack(weight, mask)
    good.check()
    for row, byte in ((0, 0), (5, 2)):
        for flipped in (0x01, 0x80, 0xFF):
            positions = good.positions.clone()
            positions[row, byte] ^= flipped
            with pytest.raises(RunError, match="make or fetch"):
                PackedWeight(good.values, positions, good.shape, good.form).check()
    for values in (good.values[:-1], good.values.reshape(1, -1)):
        with pytest.raises(RunError, match="make or fetch"):
            PackedWeight(values, good.positions, good.shape, good.form).check()


def test_2_4_damage_that_still_looks_like_a_mask_changes_the_weight_but_not_its_size():
    """Two bits a value cannot tell one legal place from another; a checksum is not what the format is for."""
    weight, mask = pruned(2, 8, "2:4", torch.float32)
    good = pack(weight, mask)
    code = int(good.positions[0, 0]) & 0x0F
    other = 4 if code != 4 else 14
    positions = good.positions.clone()
    positions[0, 0] = (positions[0, 0] & 0xF0) | other
    moved = PackedWeight(good.values, positions, good.shape, good.form)
    moved.check()
    assert moved.zeros() == good.zeros()
    assert not torch.equal(moved.mask(), mask)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_values_of_one_byte_are_taken_too(dtype):
    """2:4 with FP8 values: 0.3125 of the bytes of a dense bf16 weight."""
    weight, mask = pruned(16, 64, "2:4", torch.float32)
    weight = weight.nan_to_num(1.0, 2.0, -2.0).to(dtype)
    packed = pack(weight, mask)
    packed.check()
    assert same_bits(packed.dense(), weight)
    assert packed.nbytes == 0.3125 * 2 * weight.numel()
