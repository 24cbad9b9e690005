"""Plans on disk: JSON with the plan and what it was made from; a result folder's manifest holds one too."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ressa.allocation.allocation import Allocation
from ressa.checkpoint import MANIFEST
from ressa.errors import UsageError
from ressa.files import write_json
from ressa.sparsity import Plan


def write_plan(path: str | Path, allocation: Allocation, **more: Any) -> None:
    """Write `plan` (layer → pattern), `allocation` (its name), `seconds`, `details`, and whatever else is given."""
    data = {"allocation": allocation.name, **more, "seconds": round(allocation.seconds, 1)}
    write_json(path, {**data, "details": allocation.details, "plan": allocation.plan.to_dict()})


def read_plan(path: str | Path) -> Plan:
    """The plan in a JSON file (`{"plan": {layer: pattern}}`, or the mapping alone) or in a folder that ressa
    pruned. Raises UsageError if there is none."""
    path = Path(path)
    file = path / MANIFEST if path.is_dir() else path
    try:
        data = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    except (OSError, ValueError, RecursionError):
        raise UsageError(f"{path} holds no plan: give a plan file, or a folder that ressa pruned.") from None
    texts = data.get("plan", data) if isinstance(data, dict) else None
    if not isinstance(texts, Mapping) or not texts or not all(isinstance(t, str) for t in texts.values()):
        raise UsageError(f"{path} holds no plan: it has to map layers to patterns such as 2:4 or 0.5.")
    return Plan.from_dict(texts)
