"""What a command hands back: the data for machines, and tables and lines for people."""

from dataclasses import dataclass, field
from typing import Any

from ressa.report import Table


@dataclass(frozen=True)
class Outcome:
    """`data` is JSON-able; `tables` and then `lines` are what a person reads. `wrong`: one sentence if what was
    found is not as it was promised; the command then ends with exit code 1."""

    data: dict[str, Any]
    tables: list[Table] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    wrong: str = ""
