"""What is said in passing is shown, and kept for the result."""

import warnings

from ressa.warned import RessaWarning, recorded, warn


def test_a_block_keeps_what_is_said_in_it_and_the_block_around_it_too():
    with warnings.catch_warnings(record=True) as shown, recorded() as all_of_it:
        with recorded() as inner:
            warn("three of four")
        warn("then this", "a row\nanother")
    assert inner == ["three of four"]
    assert all_of_it == ["three of four", "then this\na row\nanother"]
    assert [(str(one.message), one.category) for one in shown] == [(said, RessaWarning) for said in all_of_it]


def test_it_is_said_every_time_and_even_where_warnings_are_silenced():
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("ignore")
        with recorded() as found:
            for _ in range(2):
                warn("again")
    assert found == ["again", "again"]
    assert len(shown) == 2


def test_other_warnings_are_not_kept():
    with warnings.catch_warnings(record=True), recorded() as found:
        warnings.warn("other", UserWarning, stacklevel=1)
    assert found == []
