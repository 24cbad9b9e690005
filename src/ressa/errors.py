"""The two ways a run can end badly; the command line turns them into exit codes 2 and 1."""

import reprlib
from typing import Any


class UsageError(ValueError):
    """The user asked for something that cannot be done. One sentence: what is wrong and what to do.

    table: lines beneath the sentence, where many things of one kind are wrong at once.
    """

    def __init__(self, sentence: str, table: str = "") -> None:
        super().__init__(f"{sentence}\n{table}" if table else sentence)
        self.sentence = sentence
        self.table = table


class RunError(RuntimeError):
    """The request was fine but the run failed. One sentence: what happened and what to do."""


def brief(value: Any) -> str:
    """A value as a sentence shows it: on one line, its middle left out where it is long."""
    text = _Brief().repr(value)
    return text if len(text) <= 80 else f"{text[:50]}…{text[-20:]}"


class _Brief(reprlib.Repr):
    """Never follows a value further than a sentence has room for."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlong = 2, 60, 60, 40

    def repr_int(self, value: int, level: int) -> str:
        return (
            "a number of thousands of digits" if value.bit_length() > 1000 else super().repr_int(value, level)
        )
