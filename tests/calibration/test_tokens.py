import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ressa.calibration.tokens import VisualDistance, select_tokens


def block(distances, width=4):
    """(input, output) of one sample whose tokens have these cosine distances."""
    cosine = 1 - torch.tensor(distances)
    before = torch.zeros(1, len(distances), width)
    before[..., 0] = 2.0
    after = torch.zeros_like(before)
    after[0, :, 0] = cosine * 3
    after[0, :, 1] = (1 - cosine.square()).clamp_min(0).sqrt() * 3
    return before, after


def test_all_text_and_the_visual_tokens_that_change_most_are_kept():
    before, after = block([0.1, 0.9, 0.4, 0.6, 0.0, 0.0])
    is_visual = torch.tensor([[True, True, True, True, False, False]])
    kept = select_tokens(before, after, is_visual)  # mean distance 0.5, two text tokens: k = 1
    assert kept.tolist() == [[False, True, False, False, True, True]]
    kept = select_tokens(before, after, is_visual, alpha=2.0)  # k = round(min(1, 1.0) · 2)
    assert kept.tolist() == [[False, True, False, True, True, True]]
    kept = select_tokens(before, after, is_visual, alpha=100.0)  # never more than the text
    assert kept.sum() == 4


def test_padding_is_neither_kept_nor_counted():
    before, after = block([0.1, 0.9, 0.4, 0.6, 0.0, 0.0, 0.0])
    is_visual = torch.tensor([[True, True, True, True, False, False, False]])
    keep = torch.tensor([[True, False, True, True, True, True, False]])
    kept = select_tokens(before, after, is_visual, keep, mean_distance=0.5)
    assert kept.tolist() == [[False, False, False, True, True, True, False]]


def test_the_mean_over_the_calibration_set_rules():
    before, after = block([0.1, 0.9, 0.0, 0.0])
    is_visual = torch.tensor([[True, True, False, False]])
    assert select_tokens(before, after, is_visual, mean_distance=0.0).tolist() == [[False, False, True, True]]
    assert select_tokens(before, after, is_visual, mean_distance=0.9).all()


def test_without_text_every_token_is_kept():
    before, after = block([0.1, 0.9, 0.3])
    assert select_tokens(before, after, torch.ones(1, 3, dtype=torch.bool)).all()
    assert select_tokens(before, after, torch.zeros(1, 3, dtype=torch.bool)).all()


def test_of_equal_distances_the_earlier_stays():
    before, after = block([0.5, 0.5, 0.5, 0.0, 0.0])
    is_visual = torch.tensor([[True, True, True, False, False]])
    kept = select_tokens(before, after, is_visual, mean_distance=0.5)
    assert kept.tolist() == [[True, False, False, True, True]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**31), alpha=st.floats(0, 3))
def test_the_number_kept_is_the_papers(dtype, seed, alpha):
    generator = torch.Generator().manual_seed(seed)
    before = torch.randn(3, 12, 8, generator=generator).to(dtype)
    after = (before + torch.randn(3, 12, 8, generator=generator)).to(dtype)
    is_visual = torch.rand(3, 12, generator=generator) < 0.6
    keep = torch.rand(3, 12, generator=generator) < 0.8
    distance = VisualDistance()
    distance.update(before, after, is_visual, keep)
    kept = select_tokens(before, after, is_visual, keep, alpha, distance.mean())
    for sample in range(3):
        texts = int((keep & ~is_visual)[sample].sum())
        visuals = int((keep & is_visual)[sample].sum())
        k = min(visuals, round(min(1, alpha * distance.mean()) * texts)) if texts else visuals
        assert int((kept & is_visual)[sample].sum()) == k
    assert torch.equal(kept & ~is_visual, keep & ~is_visual)
    assert not (kept & ~keep).any()


def test_distances_of_two_halves_make_the_mean_of_the_whole():
    before, after = block([0.1, 0.9, 0.4, 0.6])
    is_visual = torch.ones(1, 4, dtype=torch.bool)
    first, second = VisualDistance(), VisualDistance()
    first.update(before[:, :1], after[:, :1], is_visual[:, :1])
    second.update(before[:, 1:], after[:, 1:], is_visual[:, 1:])
    first.merge(second)
    assert first.mean() == pytest.approx(0.5, abs=1e-5)
    assert VisualDistance().mean() == 0
