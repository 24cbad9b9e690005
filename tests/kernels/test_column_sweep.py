"""The kernels of pruning compute what plain torch does: on a GPU, or in Triton's interpreter."""

import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("needs a GPU, or TRITON_INTERPRET=1", allow_module_level=True)
pytest.importorskip("triton")
DEVICE = "cpu" if INTERPRETED else "cuda"

from ressa.kernels import column_sweep_triton  # noqa: E402
from ressa.kernels.column_sweep import sweep_torch  # noqa: E402
from ressa.kernels.keep_groups_triton import keep_groups  # noqa: E402
from ressa.sparsity import NM  # noqa: E402


def case(columns: int, rows: int, seed: int = 0):
    """W, U and the scale of scores, of a block in the middle of a larger weight."""
    generator = torch.Generator().manual_seed(seed)
    width = columns + 8
    mixing = torch.randn(width, width, generator=generator) / width**0.5 + torch.eye(width)
    U = torch.linalg.cholesky(torch.linalg.inv(mixing @ mixing.T), upper=True)
    W = torch.randn(width, rows, generator=generator)
    scale = 1 / U.diagonal()
    scale[3] = 0  # an input that was always 0
    here = slice(4, 4 + columns)
    return W.to(DEVICE)[here], U.to(DEVICE)[here, here], scale.to(DEVICE)[here]


def both(columns: int, rows: int, kept: torch.Tensor, n: int, m: int):
    """What each makes of W, kept and errors; a poisoned `errors` shows what was not written."""
    made = []
    for sweep in (sweep_torch, column_sweep_triton.sweep):
        W, U, scale = case(columns, rows)
        mask, errors = kept.clone(), torch.full_like(W, torch.nan)
        sweep(W, U, scale, mask, errors, n, m)
        made.append((W, mask, errors))
    return made


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8), (1, 3), (5, 6), (10, 16)])
@pytest.mark.parametrize(("columns", "rows"), [(48, 5), (96, 19)])
def test_groups_are_chosen_as_the_sweep_reaches_them(n, m, columns, rows):
    everything = torch.ones(columns, rows, dtype=torch.bool, device=DEVICE)
    (W, mask, errors), (found_W, found_mask, found_errors) = both(columns, rows, everything, n, m)
    assert bool((found_mask.unflatten(0, (-1, m)).sum(1) == n).all())
    same = (mask == found_mask).all(
        0
    )  # a GPU fuses products and sums, which may turn scores that are all but equal
    assert float(same.float().mean()) > (0.99 if INTERPRETED else 0.9)
    torch.testing.assert_close(found_W[:, same], W[:, same], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found_errors[:, same], errors[:, same], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("columns", "rows"), [(1, 3), (30, 8), (128, 9), (130, 4)])
def test_a_given_mask_is_carried_out(columns, rows):
    kept = torch.rand(columns, rows, generator=torch.Generator().manual_seed(1)).to(DEVICE) > 0.5
    (W, _, errors), (found_W, found_mask, found_errors) = both(columns, rows, kept, 0, 1)
    assert torch.equal(found_mask, kept)
    torch.testing.assert_close(found_W, W, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found_errors, errors, rtol=1e-4, atol=1e-5)


def test_what_may_not_stay_goes_though_the_pattern_asks_for_less():
    may = torch.rand(24, 9, generator=torch.Generator().manual_seed(1)).to(DEVICE) > 0.7
    (W, mask, _), (found_W, found_mask, _) = both(24, 9, may, 2, 4)
    assert not (found_mask & ~may).any()
    assert torch.equal(found_mask.unflatten(0, (-1, 4)).sum(1), may.unflatten(0, (-1, 4)).sum(1).clamp(max=2))
    same = (mask == found_mask).all(0)
    assert float(same.float().mean()) > 0.9
    torch.testing.assert_close(found_W[:, same], W[:, same], rtol=1e-4, atol=1e-5)


def test_what_lies_outside_the_block_is_left_alone():
    W, U, scale = case(32, 12)
    whole = W._base
    before = whole.clone()
    kept = torch.ones(32, 12, dtype=torch.bool, device=DEVICE)
    column_sweep_triton.sweep(W, U, scale, kept, torch.empty_like(W), 2, 4)
    assert torch.equal(whole[:4], before[:4])
    assert torch.equal(whole[36:], before[36:])


def test_of_equal_scores_the_earlier_stays():
    W = torch.ones(8, 6, device=DEVICE)
    U, scale = torch.eye(8, device=DEVICE), torch.ones(8, device=DEVICE)
    kept = torch.ones(8, 6, dtype=torch.bool, device=DEVICE)
    column_sweep_triton.sweep(W, U, scale, kept, torch.empty_like(W), 2, 4)
    assert kept[:, 0].tolist() == [True, True, False, False] * 2
    assert torch.equal(W, kept.float())


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 3), (4, 8), (5, 6), (10, 16), (31, 32)])
@pytest.mark.parametrize("ties", [False, True])
def test_groups_of_scores_are_kept_as_the_pattern_says(n, m, ties):
    scores = torch.randn(7, 5 * m, generator=torch.Generator().manual_seed(n))
    scores = scores.mul(2).round() if ties else scores
    scores[0, :m] = -torch.inf
    assert torch.equal(keep_groups(scores.to(DEVICE), n, m).cpu(), NM(n, m).select(scores))
