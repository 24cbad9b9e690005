"""`ressa data`: which datasets there are, what a folder holds, and getting one."""

from pathlib import Path
from typing import Any

from ressa.commands.outcome import Outcome
from ressa.data.auditing import Audit, as_data, audit
from ressa.data.faults import table
from ressa.data.formats.part import Part
from ressa.data.obtaining.catalog import DATASETS, GB, MB, Dataset, find_dataset
from ressa.data.obtaining.download import download
from ressa.errors import UsageError
from ressa.report import Table

SHOWN = 20  # leaks in a terminal


def list_datasets() -> Outcome:
    """The datasets that are known: tasks, size, licence, layout and place."""
    rows = tuple(
        (each.name, ", ".join(each.tasks), size_in_words(each), ", ".join(each.needs) or "–", each.licence)
        for each in DATASETS.values()
    )
    columns = ("name", "tasks", "download", "pictures of", "licence")
    lines = [
        "A folder may also hold captions beside pictures, metadata.csv or .jsonl, JSON lines, tar shards and hub "
        "datasets (docs/data.md).",
        "Get one with: ressa data download NAME -o DIR",
    ]
    data = {"datasets": [_described(each) for each in DATASETS.values()]}
    return Outcome(data, [Table("Datasets", columns, rows)], lines)


def _described(dataset: Dataset) -> dict[str, Any]:
    return {
        **{
            name: getattr(dataset, name) for name in ("name", "title", "licence", "home", "layout", "by_hand")
        },
        "tasks": list(dataset.tasks),
        "needs": list(dataset.needs),
        "bytes": dataset.size,
        "files": [{"url": each.url, "bytes": each.size, "digest": each.digest} for each in dataset.downloads],
    }


def size_in_words(dataset: Dataset) -> str:
    if not dataset.downloads:
        return "by hand"
    size = dataset.size
    return f"{size / GB:.1f} GB" if size >= GB else f"{max(1, round(size / MB))} MB"


def check_folder(folder: str, *, pictures: bool, follow_links: bool) -> Outcome:
    """What a data folder holds and what is wrong with it."""
    found = audit(folder, pictures=pictures, follow_links=follow_links)
    rows = tuple(
        (
            f"{report.part.task}, {_split(report.part)}",
            f"{report.samples:,}",
            f"{len(report.pictures):,}",
            *(f"{count:,}" if count else "–" for count in (report.missing, report.unreadable, report.bad)),
        )
        for report in found.parts
    )
    columns = ("task, split", "samples", "pictures", "missing", "damaged", "bad")
    tables = [Table(str(found.path), columns, rows)] if rows else []
    lines = [*_faults(found), *_leaks(found)]
    if found.by_name:
        lines.append(
            f"{found.by_name:,} more pictures are in two splits that are read only where --split names them, one to be "
            "scored on and one to learn from."
        )
    if pictures and found.parts:
        lines.append(
            f"{found.compared:,} pictures were opened, and those that are scored on compared with all others by their "
            "bytes and by what they show."
        )
    return Outcome(as_data(found), tables, lines, wrong=found.wrong)


def _split(part: Part) -> str:
    """What --split takes for it; what a dataset calls itself says nothing of the split where it is not in it."""
    return part.own if part.split in part.own else f"{part.split} ({part.own})" if part.own else part.split


def _faults(found: Audit) -> list[str]:
    faults = list(dict.fromkeys(fault for report in found.parts for fault in report.faults))
    return ["What cannot be used:", *(f"  {line}" for line in table(faults).splitlines())] if faults else []


def _leaks(found: Audit) -> list[str]:
    if not found.leaks:
        return []
    said = ["Pictures that are scored on and learned from:"]
    for leak in found.leaks[:SHOWN]:
        scored, learned = (
            f"{task} {split}, {picture}" for task, split, picture in (leak.scored, leak.learned)
        )
        said.append(f"  {scored}  is  {learned}  ({leak.how})")
    if len(found.leaks) > SHOWN:
        said.append(f"  … and {len(found.leaks) - SHOWN:,} more")
    return said


def download_dataset(name: str, output: Path | None, *, keep: bool) -> Outcome:
    """Bring a dataset into a folder."""
    dataset = find_dataset(name)
    folder = Path("data") if output is None else output
    if not dataset.downloads:
        raise UsageError(
            f"{dataset.title} cannot be downloaded by a program: {dataset.by_hand} See {dataset.home}."
        )
    results = download(dataset, folder, keep=keep)
    new = sum(result["new"] for result in results)
    lines = [f"{dataset.title} is in {folder}: {new} of its {len(results)} files are new."]
    lines += [
        f"Its pictures are those of {need}: ressa data download {need} -o {folder}" for need in dataset.needs
    ]
    if dataset.by_hand:
        lines.append(f"By hand: {dataset.by_hand}")
    lines.append(
        f"Licence: {dataset.licence} ({dataset.home}). See what is there with: ressa data check {folder}"
    )
    return Outcome({"dataset": _described(dataset), "output": str(folder), "files": results}, [], lines)
