import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ressa.errors import RunError
from ressa.sparsity import pack_mask, unpack_mask


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
