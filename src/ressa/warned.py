"""What a run goes on in spite of, said at once on standard error and kept for the result's data.

`warn` may be called from anywhere. It is Python's own warning, of a class of its own, so that a program that uses
the library can filter it, and `ressa` says it even where it silences the libraries beneath.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class RessaWarning(UserWarning):
    """One sentence: what is not as one would expect. Lines of a table may follow it."""


def warn(sentence: str, table: str = "") -> None:
    """Say something that does not end the run. table: lines beneath the sentence."""
    warnings.warn(f"{sentence}\n{table}" if table else sentence, RessaWarning, stacklevel=2)


@contextmanager
def recorded() -> Iterator[list[str]]:
    """Collects what is warned of inside; it is shown as it would be without this.

    Blocks may lie within each other: each collects what is said in it.
    """
    found: list[str] = []
    show = warnings.showwarning

    def keep(message: Warning | str, category: type[Warning], *place: Any) -> None:
        if issubclass(category, RessaWarning):
            found.append(str(message))
        show(message, category, *place)

    with warnings.catch_warnings():
        warnings.simplefilter("always", RessaWarning)
        # catch_warnings puts the former one back
        warnings.showwarning = keep  # type: ignore[assignment]
        yield found
