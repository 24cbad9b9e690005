"""What a result folder holds, but for how long things took."""

import json
from pathlib import Path

TIMES = ("seconds", "spent")


def contents(folder: Path) -> dict[str, bytes]:
    """File → its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def contents_but_times(folder: Path) -> dict[str, bytes]:
    """File → its bytes, without the times in ressa.json."""
    found = contents(folder)
    manifest = json.loads(found["ressa.json"])
    for part in (manifest, manifest.get("allocation", {})):
        for key in TIMES:
            part.pop(key, None)
    return found | {"ressa.json": json.dumps(manifest).encode()}
