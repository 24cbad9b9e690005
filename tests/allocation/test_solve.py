"""The solver finds the least loss that brute force finds."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ressa.allocation.solve import Choice, choose
from ressa.errors import UsageError

# Shares so small that they ask for less than any rounding leaves over are no budget.
SHARE = st.just(0.0) | st.floats(1e-6, 1.0)
GROUP = st.lists(st.tuples(st.integers(0, 12), st.floats(-1, 10)), min_size=1, max_size=4)


@settings(max_examples=200)
@given(st.lists(GROUP, min_size=1, max_size=5), SHARE, st.sampled_from([1.0, 64.0, 0.37]))
def test_it_is_optimal(groups, share, scale):
    made = {
        str(i): [Choice(str(j), saves * scale, loss) for j, (saves, loss) in enumerate(group)]
        for i, group in enumerate(groups)
    }
    target = share * sum(max(choice.saves for choice in choices) for choices in made.values())
    picked = choose(made, target)
    assert list(picked) == list(made)
    assert sum(choice.saves for choice in picked.values()) >= target - 1e-3 * scale
    feasible = [c for c in product(*made.values()) if sum(choice.saves for choice in c) >= target - 1e-9]
    least = min((sum(choice.loss for choice in c) for c in feasible), default=None)
    # Savings that are no whole numbers are counted in steps, which never breaks the budget.
    if scale != 0.37 and least is not None:
        assert sum(choice.loss for choice in picked.values()) == pytest.approx(least)


def test_where_only_the_most_saving_will_do_the_better_of_equals_is_taken():
    groups = {
        str(i): [Choice("dense", 0, 0), Choice("2:4", saves, 2), Choice("4:8", saves, 1)]
        for i, saves in enumerate([0.3, 0.2, 0.1])
    }
    target = 0.1 + 0.2 + 0.3
    assert target > 0.3 + 0.2 + 0.1  # the same savings in another order, and a bit more
    assert {choice.label for choice in choose(groups, target).values()} == {"4:8"}


def test_more_than_can_be_saved_is_refused():
    with pytest.raises(UsageError, match="sparser"):
        choose({"a": [Choice("dense", 0, 0), Choice("2:4", 8, 1)]}, 9)
