"""What an allocation comes to."""

from dataclasses import dataclass, field
from typing import Any

from ressa.sparsity import Plan


@dataclass(frozen=True)
class Allocation:
    """plan: layer → pattern. details: JSON-able, what the plan was made from. seconds: how long it took."""

    name: str
    plan: Plan
    seconds: float
    details: dict[str, Any] = field(default_factory=dict)
