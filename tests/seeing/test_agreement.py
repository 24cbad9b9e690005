"""Maps as numbers, against SciPy and by hand."""

import numpy as np
import pytest
from scipy import stats

from ressa.seeing import Look, Looks, Place, compare_looks, pearson, pointing, spearman

BOX = Place(("dog", "dogs"), 0.5, 0.0, 1.0, 0.5)  # the top right quarter


@pytest.mark.parametrize("levels", [3, 10_000])
def test_correlations_are_those_of_scipy_ties_and_all(levels):
    generator = np.random.default_rng(levels)
    for _ in range(50):
        a, b = generator.integers(0, levels, (2, 8, 6)).astype(float)
        assert pearson(a, b) == pytest.approx(stats.pearsonr(a.ravel(), b.ravel()).statistic)
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a.ravel(), b.ravel()).statistic)


def test_a_map_that_is_the_same_everywhere_correlates_with_nothing():
    assert pearson(np.full((4, 4), 0.1), np.arange(16.0).reshape(4, 4)) is None
    assert spearman(np.zeros((4, 4)), np.arange(16.0).reshape(4, 4)) is None


def test_pointing_counts_the_largest_cell_and_the_share_inside_the_box():
    seen = np.array([[0.0, 0.0, 3.0, 1.0], [0.0, 0.0, 0.0, 2.0], [1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, -5.0]])
    assert pointing(seen, [BOX]) == {"hit": 1.0, "mass": 6 / 8, "area": 0.25}
    assert pointing(seen.T, [BOX])["hit"] == 0.0


def test_boxes_that_cut_cells_count_by_their_share():
    narrow = Place(("cat",), 0.0, 0.0, 0.125, 1.0)  # half of the first of four columns
    flat = pointing(np.ones((4, 4)), [narrow])
    assert flat["mass"] == pytest.approx(0.125)
    assert flat["area"] == pytest.approx(0.125)
    both = pointing(np.ones((4, 4)), [narrow, narrow])
    assert both["area"] == pytest.approx(0.125)  # two boxes on one place are one place


def looks(answers, maps, attention=True):
    return Looks(
        ["x"] * len(answers),
        [
            Look(answer, -1.0, grid if attention else None, grid)
            for answer, grid in zip(answers, maps, strict=True)
        ],
        "" if attention else "it gives none",
    )


ONE, OTHER = [[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]


def test_a_model_agrees_with_itself_and_not_with_the_next_question():
    dense = looks(["a", "b"], [ONE, OTHER])
    found = compare_looks(dense, dense, [[BOX], []])
    assert found["same_answers"] == 1
    for kind in ("attention", "occlusion"):
        assert found[kind]["pearson"] == pytest.approx(1)
        assert found[kind]["strangers"] == pytest.approx(-1 / 3)
        assert found[kind]["named"] == 1
        assert found[kind]["hit"] == 0


def test_questions_answered_alike_are_counted_apart_and_missing_attention_is_left_out():
    dense, other = looks(["a", "b"], [ONE, OTHER]), looks(["A ", "c"], [ONE, ONE], attention=False)
    found = compare_looks(dense, other)
    assert found["same_answers"] == 0.5
    assert "attention" not in found
    assert found["occlusion"]["pearson_same"] == pytest.approx(1)
    assert found["occlusion"]["pearson"] == pytest.approx((1 - 1 / 3) / 2)
    assert Looks.from_dict(other.to_dict()) == other
