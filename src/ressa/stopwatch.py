"""Where the time of a run goes."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter


class Stopwatch:
    """Seconds by what they were spent on, in the order it was first begun."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        """The time within is spent on `what`, and on nothing else that is begun outside."""
        self.seconds.setdefault(what, 0.0)
        before, started = sum(self.seconds.values()), perf_counter()
        try:
            yield
        finally:
            within = sum(self.seconds.values()) - before
            self.seconds[what] += perf_counter() - started - within

    def rounded(self) -> dict[str, float]:
        """The same in tenths of a second: what goes into a result."""
        return {what: round(seconds, 1) for what, seconds in self.seconds.items()}


def where_it_went(seconds: dict[str, float]) -> str:
    """One line for people: where the time went."""
    parts = ", ".join(f"{what} {spent:.1f} s" for what, spent in seconds.items())
    return f"Where the time went: {parts}."
