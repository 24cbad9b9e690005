import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ressa.errors import RunError, UsageError
from ressa.sparsity import NM, Unstructured, pack_mask, parse_pattern
from ressa.sparsity.select import keep_top, keep_top_groups, keep_top_rows

small = settings(deadline=None, max_examples=60)


ROWS, WIDTHS = st.integers(1, 5), st.integers(1, 48)


def scores_strategy(rows=ROWS, width=WIDTHS):
    """Score matrices: some all different, some with many ties, infinities and signed zeros."""

    @st.composite
    def draw_scores(draw):
        shape = (draw(rows), draw(width))
        generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
        kind = draw(st.sampled_from(["distinct", "ties", "constant", "extremes"]))
        if kind == "distinct":
            return torch.randn(shape, generator=generator)
        if kind == "ties":
            return torch.randint(0, 4, shape, generator=generator).float()
        if kind == "constant":
            return torch.full(shape, draw(st.sampled_from([0.0, 1.0, -3.0])))
        values = torch.tensor([math.inf, -math.inf, 0.0, -0.0, 3e38, -3e38, 1e-45, -1e-45])
        return values[torch.randint(0, len(values), shape, generator=generator)]

    return draw_scores()


def keep_by_sorting(scores, keep):
    """The plain version: a stable descending sort, so that of equal scores the lower index comes first."""
    order = (scores + 0.0).argsort(dim=1, descending=True, stable=True)
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, order[:, :keep], True)


@small
@given(scores_strategy(), st.integers(0, 48))
def test_rows_keep_what_a_stable_sort_keeps(scores, keep):
    keep = min(keep, scores.shape[1])
    assert torch.equal(keep_top_rows(scores, keep), keep_by_sorting(scores, keep))


@small
@given(scores_strategy(), st.floats(0, 1))
def test_a_layer_keeps_what_a_stable_sort_of_all_its_scores_keeps(scores, share):
    keep = int(share * scores.numel())
    (mask,) = keep_top([scores], keep)
    assert torch.equal(mask.reshape(1, -1), keep_by_sorting(scores.reshape(1, -1), keep))


@pytest.mark.parametrize(
    ("n", "m"), [(1, 2), (1, 4), (2, 4), (4, 8), (6, 8), (8, 16), (3, 5), (17, 40), (32, 64)]
)
@small
@given(st.data())
def test_groups_keep_what_a_stable_sort_of_each_group_keeps(n, m, data):
    scores = data.draw(scores_strategy(width=st.integers(1, 3).map(lambda groups: groups * m)))
    expected = keep_by_sorting(scores.reshape(-1, m), n).reshape(scores.shape)
    assert torch.equal(keep_top_groups(scores, n, m), expected)


@small
@given(scores_strategy(), st.floats(0, 1, exclude_max=True), st.sampled_from(["row", "layer"]))
def test_unstructured_makes_exactly_the_zeros_it_announces(scores, sparsity, scope):
    pattern = Unstructured(sparsity, scope)
    mask = pattern.select(scores)
    rows, width = scores.shape
    expected = rows * math.floor(sparsity * width + 0.5)
    if scope == "layer":
        expected = math.floor(sparsity * rows * width + 0.5)
    assert int((~mask).sum()) == pattern.zeros(scores.shape) == expected
    assert pattern.verify(mask)


@small
@given(st.integers(1, 7), st.integers(1, 9), st.data())
def test_n_m_makes_exactly_the_zeros_it_announces(n, spare, data):
    pattern = NM(n, n + spare)
    scores = data.draw(scores_strategy(width=st.integers(1, 3).map(lambda groups: groups * pattern.m)))
    mask = pattern.select(scores)
    assert bool((mask.reshape(-1, pattern.m).sum(1) == n).all())
    assert int((~mask).sum()) == pattern.zeros(scores.shape) == round(pattern.sparsity * scores.numel())
    assert pattern.verify(mask)


def test_verify_refuses_masks_that_keep_too_much():
    mask = torch.tensor([[True, True, False, False], [True, True, True, False]])
    assert not NM(2, 4).verify(mask)
    assert NM(3, 4).verify(mask)
    assert not NM(1, 3).verify(mask)
    assert not Unstructured(0.5).verify(mask)
    assert not Unstructured(0.5, "layer").verify(mask)
    assert Unstructured(0.375, "layer").verify(mask)
    assert Unstructured(0.25).verify(mask)


def test_bfloat16_scores_tie_where_their_values_do():
    scores = torch.tensor([[1.0, 1.001, 0.5, 2.0]], dtype=torch.bfloat16)  # 1.001 rounds to 1 in bfloat16
    assert NM(2, 4).select(scores).tolist() == [[True, False, False, True]]


@pytest.mark.parametrize(
    "pattern", [Unstructured(0.5), Unstructured(0.0), Unstructured(0.5, "layer"), NM(2, 4), NM(2, 64)]
)
def test_nan_scores_are_refused(pattern):
    scores = torch.ones(2, 64)
    scores[1, 3] = math.nan
    with pytest.raises(RunError, match="NaN"):
        pattern.select(scores)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("2:4", NM(2, 4)),
        (" 8 : 16 ", NM(8, 16)),
        ("0.5", Unstructured(0.5)),
        (0.7, Unstructured(0.7)),
        (0, Unstructured(0.0)),
        ("55%", Unstructured(0.55)),
        ("62.5 %", Unstructured(0.625)),
        ("0.5@layer", Unstructured(0.5, "layer")),
        ("50%@row", Unstructured(0.5, "row")),
        ("1e-05", Unstructured(1e-05)),
    ],
)
def test_patterns_are_read_as_people_write_them(text, pattern):
    assert parse_pattern(text) == pattern


def test_the_default_scope_yields_to_a_written_one():
    assert parse_pattern("0.5", scope="layer") == Unstructured(0.5, "layer")
    assert parse_pattern("0.5@row", scope="layer") == Unstructured(0.5, "row")
    assert parse_pattern("2:4", scope="layer") == NM(2, 4)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "half",
        "2:",
        "4:2",
        "2:2",
        "0:4",
        "1",
        "1.5",
        "100%",
        "-0.1",
        "-1:4",
        "nan",
        "inf",
        "0.5@column",
        "1.2.3",
    ],
)
def test_what_is_no_pattern_is_refused_in_one_sentence(text):
    with pytest.raises(UsageError) as error:
        parse_pattern(text)
    assert str(error.value).endswith(".")
    assert "\n" not in str(error.value)


@small
@given(
    st.one_of(
        st.builds(Unstructured, st.floats(0, 1, exclude_max=True), st.sampled_from(["row", "layer"])),
        st.tuples(st.integers(1, 99), st.integers(1, 99)).map(lambda pair: NM(pair[0], sum(pair))),
    )
)
def test_every_pattern_survives_being_written_and_read(pattern):
    assert parse_pattern(str(pattern)) == pattern


def test_a_width_that_the_group_does_not_divide_is_named():
    with pytest.raises(UsageError, match=r"30 inputs.*30 is not a multiple of 4"):
        NM(2, 4).check_shape((8, 30))
    with pytest.raises(UsageError, match="30 inputs"):
        NM(2, 4).select(torch.ones(8, 30))
    with pytest.raises(UsageError, match="1 dimensions"):
        Unstructured(0.5).check_shape((8,))
    NM(2, 4).check_shape((7, 32))


@small
@given(
    st.sampled_from([NM(1, 2), NM(2, 4), NM(3, 4), NM(4, 8), NM(2, 3), NM(8, 16), Unstructured(0.5),
                     Unstructured(0.3, "layer")]),
    st.integers(1, 4), st.integers(1, 50), st.integers(0, 2**31), st.floats(0.2, 0.8),
)  # fmt: skip
def test_a_packed_mask_is_verified_as_the_mask_is(pattern, rows, width, seed, share):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(rows, width, generator=generator) > share
    for each in (mask, *([pattern.select(mask.float())] if width % getattr(pattern, "m", 1) == 0 else [])):
        if isinstance(pattern, NM):
            plainly = width % pattern.m == 0 and bool((each.view(-1, pattern.m).sum(1) <= pattern.n).all())
        else:
            plainly = pattern.verify(each)
        assert pattern.verify_packed(pack_mask(each), width) == pattern.verify(each) == plainly
