"""One dataset, downloaded and unpacked, archive by archive; what is done is noted and not done again."""

from pathlib import Path
from typing import Any

from ressa.data.obtaining.catalog import Dataset
from ressa.data.obtaining.fetching import fetch
from ressa.data.obtaining.unpacking import is_archive, unpack
from ressa.files import check_writable, read_json, write_json
from ressa.locks import held

NOTED = ".ressa-downloads.json"  # in the folder: what lies there already


def download(dataset: Dataset, folder: str | Path, *, keep: bool = False) -> list[dict[str, Any]]:
    """Bring a dataset into a folder; returns what each of its files came to: `url`, `files`, `new`.

    Archives are removed when they are unpacked, unless `keep`. An interrupted download goes on where it was. Raises
    RunError as `fetch` and `unpack` do, and UsageError where there is no room.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder / NOTED):
        done: dict[str, int] = _done(folder)
        missing = sum(each.size for each in dataset.downloads if each.url not in done)
        check_writable(folder / NOTED, room=missing)
        results = []
        for each in dataset.downloads:
            new = each.url not in done
            if new:
                place = folder / each.into
                path = place / each.name
                if not path.exists():  # a whole one may be left by a run that did not come to unpacking it
                    fetch(each.url, path, digest=each.digest, size=each.size)
                done[each.url] = unpack(path, place) if is_archive(path) else 1
                write_json(folder / NOTED, done)
                if is_archive(path) and not keep:
                    path.unlink()
            results.append({"url": each.url, "files": done[each.url], "new": new})
        return results


def _done(folder: Path) -> dict[str, int]:
    """Address → how many files it gave, of what was finished before."""
    found = read_json(folder / NOTED)
    if not isinstance(found, dict) or not all(isinstance(count, int) for count in found.values()):
        return {}
    return found
