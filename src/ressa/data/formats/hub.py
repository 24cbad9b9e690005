"""The library `datasets`: a hub's by name (`hub:owner/name@config`), parquet files, and what `save_to_disk` wrote.

Read with it (`pip install "ressa[datasets]"`), streaming: nothing is copied, and of a hub's dataset no
more is downloaded than a drawing takes. Rows are records (`formats.records`), whose columns hold pictures.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from ressa.data.formats.part import Part, Reading, read_each
from ressa.data.formats.records import kind_of, record, task_of
from ressa.data.picture import PackedPicture
from ressa.data.sample import Picture, Sample
from ressa.data.tree import SPLITS, Tree, split_of
from ressa.errors import RunError, UsageError
from ressa.warned import warn

HUB = "hub:"
SPARE = 1.2  # times as many rows as will be drawn are read: some may be of no use
BUFFER = 1000  # rows among which a stream is shuffled


@dataclass(frozen=True)
class _Rows:
    """A split of a dataset: `open` gives a stream of its rows, pictures as they are stored."""

    split: str
    open: Callable[[], Any]


def find(tree: Tree) -> Iterator[Part]:
    parquet: dict[str, list[Path]] = {}
    for branch in tree.branches:
        for name in branch.files:
            file = branch.path / name
            # img2dataset lays a table of what it fetched beside each shard.
            if name.endswith(".parquet") and f"{file.stem}_stats.json" not in branch.files:
                parquet.setdefault(split_of(file, tree.path), []).append(file)
    saved = [
        branch.path
        for branch in tree.branches
        if "state.json" in branch.files and any(name.endswith(".arrow") for name in branch.files)
    ]
    if not parquet and not saved:
        return
    if find_spec("datasets") is None:
        warn(
            f'{tree.path} holds parquet or arrow files, which take the library datasets: pip install "ressa[datasets]".'
        )
        return
    there = [
        (_Rows(split, partial(_from_parquet, sorted(map(str, files)))), "parquet files", sorted(files))
        for split, files in parquet.items()
    ]
    there += [
        (
            _Rows(split_of(folder, tree.path), partial(_from_disk, folder)),
            "a saved dataset",
            sorted(folder.glob("*.arrow")),
        )
        for folder in saved
    ]
    for rows, name, files in there:
        try:
            yield from _parts(rows, name, tuple(files))
        except UsageError as error:
            warn(f"Passed over: {error}")


def find_in_hub(name: str) -> Iterator[Part]:
    """The splits of a hub's dataset. Raises UsageError where there is none of this name, RunError without a network."""
    if find_spec("datasets") is None:
        raise UsageError(f'{HUB}{name} takes the library datasets: pip install "ressa[datasets]".')
    repository, _, config = name.partition("@")
    for own, rows in _from_hub(repository, config or None).items():
        split = SPLITS.get(own, own)
        yield from _parts(_Rows(split, lambda rows=rows: rows), f"{HUB}{name}", (), own)  # type: ignore[misc]


def _parts(rows: _Rows, name: str, files: tuple[Path, ...], own: str = "") -> Iterator[Part]:
    columns = _columns(rows.open())
    if (kind := kind_of(columns)) is not None:
        task = task_of(kind, name.lower().replace("/", "_").replace("-", "_"))
        yield Part(task, rows.split, name, files, partial(_read, rows), own=own)


def _columns(stream: Any) -> Mapping[str, Any]:
    """The names of a stream's columns; its first row says them where no schema does."""
    return stream.features or next(iter(stream), {})


def _read(rows: _Rows, reading: Reading, part: Part) -> Sequence[Sample]:
    stream = rows.open()
    place = part.files[0] if part.files else Path(part.name)
    if reading.enough is not None:
        stream = stream.shuffle(seed=reading.seed, buffer_size=BUFFER)
    numbers = iter(range(10**12))

    def make(row: dict[str, Any]) -> Sample | None:
        number = next(numbers)
        return record(reading, _plain(row), partial(_picture, reading, place, number), f"row {number}")

    entries: Iterable[Any] = _safely(stream.decode(False), part.name)
    if reading.enough is not None:
        entries = islice(entries, int(SPARE * reading.enough) + 8)
    return read_each(
        reading, part, place, entries, make, where="row", left_out="rows without an answer or a caption"
    )


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row without columns that are empty in it."""
    return {name: value for name, value in row.items() if value is not None}


def _picture(reading: Reading, place: Path, number: int, cell: Any) -> Picture:
    """A picture as `datasets` stores it: bytes, or the path of a file, which has to be in the data folder."""
    if not isinstance(cell, Mapping) or not ({"bytes", "path"} & cell.keys()):
        raise UsageError("its image is no picture of the table")
    name = str(cell.get("path") or f"row {number}")
    if (content := cell.get("bytes")) is not None:
        return PackedPicture(place, Path(name).name, offset=number, content=bytes(content))
    if "://" in name or str(reading.path).startswith(HUB):
        raise UsageError(f"its image is not in the table, which names {name[:80]!r}")
    return reading.inside(Path(name))


def _safely(stream: Iterable[Any], name: str) -> Iterator[Any]:
    """The rows; what stops them, as a sentence."""
    try:
        yield from stream
    except (UsageError, RunError):
        raise
    except Exception as error:  # the library, pyarrow, fsspec and the network raise whatever they have
        raise RunError(
            f"{name} breaks off ({_in_words(error)}): look at its files or at the network."
        ) from error


def _from_parquet(files: list[str]) -> Any:
    import datasets

    return _opened(
        lambda: datasets.load_dataset("parquet", data_files=files, split="train", streaming=True), files[0]
    )


def _from_disk(folder: Path) -> Any:
    import datasets

    return _opened(lambda: datasets.load_from_disk(str(folder)).to_iterable_dataset(), str(folder))


def _from_hub(repository: str, config: str | None) -> dict[str, Any]:
    import datasets

    return dict(
        _opened(lambda: datasets.load_dataset(repository, config, streaming=True), f"{HUB}{repository}")
    )


def _opened(load: Callable[[], Any], name: str) -> Any:
    try:
        return load()
    except Exception as error:
        if isinstance(error, ConnectionError | TimeoutError):
            raise RunError(f"{name} cannot be reached ({_in_words(error)}): look at the network.") from None
        raise UsageError(f"{name} cannot be opened as a dataset ({_in_words(error)}): correct it.") from None


def _in_words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
