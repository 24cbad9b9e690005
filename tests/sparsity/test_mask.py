import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ressa.errors import RunError
from ressa.sparsity import PackedMasks, count_packed, pack_mask, pack_nonzero, unpack_mask


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 9), st.integers(1, 40), st.integers(0, 2**31))
def test_a_mask_survives_packing(rows, width, seed):
    mask = torch.rand(rows, width, generator=torch.Generator().manual_seed(seed)) > 0.5
    packed = pack_mask(mask)
    assert packed.dtype == torch.uint8
    assert packed.shape == (rows, -(-width // 8))
    assert torch.equal(unpack_mask(packed, width), mask)


def test_the_lowest_bit_is_the_first_column_and_spare_bits_are_zero():
    mask = torch.zeros(2, 11, dtype=torch.bool)
    mask[0, 0] = mask[0, 10] = mask[1, 7] = True
    assert pack_mask(mask).tolist() == [[1, 4], [128, 0]]


def test_a_mask_of_another_width_is_refused():
    with pytest.raises(RunError, match="2 bytes a row does not belong to a layer with 17 inputs"):
        unpack_mask(pack_mask(torch.ones(3, 16, dtype=torch.bool)), 17)


FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.float8_e4m3fn]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 9), st.integers(1, 40), st.integers(0, 2**31), st.sampled_from(FLOATS))
def test_nonzeros_of_any_float_dtype_are_packed_as_their_comparison_with_zero_is(rows, width, seed, dtype):
    values = torch.tensor([0.0, -0.0, 1.0, -1.0, torch.finfo(dtype).smallest_normal, torch.nan]).to(dtype)
    choice = torch.randint(0, len(values), (rows, width), generator=torch.Generator().manual_seed(seed))
    weight = values[choice]
    packed = pack_nonzero(weight)
    assert torch.equal(packed, pack_mask(weight.float() != 0))
    assert count_packed(packed) == int((weight.float() != 0).sum())


def test_a_weight_of_many_chunks_is_packed_as_a_whole():
    weight = torch.randn(700, 1003, generator=torch.Generator().manual_seed(0)).relu().bfloat16()
    assert torch.equal(pack_nonzero(weight), pack_mask(weight != 0))
    assert torch.equal(pack_nonzero(weight.T), pack_mask(weight.T != 0))


def test_packed_masks_are_a_mapping_of_masks():
    masks = {name: torch.rand(3, width) > 0.5 for name, width in {"a": 5, "b": 16}.items()}
    packed = PackedMasks(masks)
    assert list(packed) == ["a", "b"]
    assert all(torch.equal(packed[name], mask) for name, mask in masks.items())
    assert packed.packed("b").shape == (3, 2)
    assert "c" not in packed
    assert list(packed.in_order(["b", "a"])) == ["b", "a"]
