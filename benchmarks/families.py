"""Does pruning hold in every family of transformers that reads pictures and words, and how much of each can be pruned?

    python -m pip install --no-deps --target build/timm timm==1.0.31 torchvision==0.28.0
    PYTHONPATH=build/timm OMP_NUM_THREADS=2 python benchmarks/families.py

Builds a tiny random model of each (`tests/zoo`), runs the contract on it, takes those whose processors can be made
without a download through the commands, and writes the table in docs/families.md. What was found is kept family by
family in benchmarks/results/families.json: a run that was cut short goes on, and `--again` looks at the families named,
or at all, anew. A new version of transformers begins anew by itself.

timm makes the vision towers of three families, and processors that read moving pictures want torchvision. They go into
a folder of their own, as PyPI has torchvision for CUDA only: beside a CPU build of PyTorch importing it fails, and with
it whatever uses transformers' processors (torchvision 0.28.0 goes with PyTorch 2.13.0). Without the folder those
families are not looked at.
"""

import argparse
import io
import json
import logging
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

NMS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
if find_spec("torchvision") is not None and not torch.version.cuda:
    # No tower calls them: declared, they let torchvision be imported where its compiled part cannot be.
    declared = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        declared.define(operator + NMS)

import transformers  # noqa: E402

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from zoo import BESIDE, DUAL, FAMILIES, IMAGE_TEXT, LEFT_OUT, contract  # noqa: E402
from zoo.command_line import scenes, through  # noqa: E402
from zoo.processed import PROCESSED  # noqa: E402

from ressa.anatomy.parts import TOWERS  # noqa: E402
from ressa.files import write_json  # noqa: E402

RESULTS, PAGE = ROOT / "benchmarks/results/families.json", ROOT / "docs/families.md"
INTRODUCTION = """# Families
<!-- written by benchmarks/families.py -->
What transformers {version} reads pictures and words with, each family as a tiny random model made from its default
config. Seen with each: the towers have as many blocks as the config says; Wanda at 2:4 and at 50 % leaves exactly those
zeros in every tower, experts included; samples padded together and given alone have the same statistics; what the
pruned model says and, where it generates, writes is finite; a step of repair moves no zero; plain transformers reads
the saved folder and says the same. Those that say "and commands" went, with their real processors, through `ressa
prune`, `ressa repair`, `ressa evaluate` and `ressa inspect` on ten embedded scenes, too.

{holding} of {count} hold in everything. The numbers are blocks, and the share of their weights that can be pruned (of
the real model, too, as near as its proportions are the tiny one's); the rest are convolutions, tables, routers and
weights in other forms, which stay dense. Written by `python benchmarks/families.py`.
"""
SECTIONS = {
    "Image-text models": ("Every family of transformers' image-text mapping.", IMAGE_TEXT),
    "Dual encoders": ("Models that compare pictures, or what is in them, with texts.", DUAL),
    "Others": ("Models of neither kind, and variants of the first that have other weights.", BESIDE),
}
HEAD = """| family | vision | connector | language | holds |
|---|---|---|---|---|
"""


def look(family: str, limit: int) -> dict[str, Any]:
    """What was found of one family: its towers, and what went wrong by the name of the check."""
    started = time.perf_counter()
    row: dict[str, Any] = {"model": FAMILIES[family].model, "towers": {}, "outside": [], "failed": {}}
    try:
        with at_most(limit), tempfile.TemporaryDirectory() as work:
            subject = contract.Subject(family)
            for name, tower in subject.anatomy.towers.items():
                blocks = sum(len(chain.blocks) for chain in tower.chains)
                row["towers"][name] = {"blocks": blocks, "share": round(tower.share, 4)}
            row["outside"] = list(subject.anatomy.outside)
            for name, check in contract.CHECKS.items():
                try:
                    check(subject, *([Path(work) / "pruned"] if name == "reload" else []))
                except TimeoutError:
                    raise
                except Exception as error:  # whatever it was, the other checks and families go on
                    row["failed"][name] = said(error)
    except ImportError as error:
        row["failed"]["build"] = (
            f"not looked at, a library is not installed ({said(error).partition('.')[0]})"
        )
    except Exception as error:
        row["failed"]["build"] = said(error)
    return {**row, "seconds": round(time.perf_counter() - started, 1)}


def command(family: str, data: Path, limit: int) -> dict[str, Any]:
    """The scores that a family came to through the commands, or what went wrong."""
    started = time.perf_counter()
    row: dict[str, Any] = {"scores": {}, "failed": ""}
    try:
        with at_most(limit), tempfile.TemporaryDirectory() as work, redirect_stdout(io.StringIO()):
            row["scores"] = through(family, data, Path(work))
    except Exception as error:
        row["failed"] = said(error)
    return {**row, "seconds": round(time.perf_counter() - started, 1)}


def said(error: Exception) -> str:
    """An error as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raises TimeoutError in what takes longer."""

    def stop(_number: int, _frame: Any) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def page(rows: dict[str, dict[str, Any]]) -> str:
    """docs/families.md."""
    holding = sum(not row["failed"] for row in rows.values())
    text = INTRODUCTION.format(version=transformers.__version__, holding=holding, count=len(rows))
    for title, (what, families) in SECTIONS.items():
        text += f"\n## {title}\n{what}\n\n{HEAD}"
        for family in sorted(families.keys() & rows.keys()):
            row = rows[family]
            cells = [tower_cell(row["towers"].get(name)) for name in TOWERS]
            holds = f"not {', '.join(row['failed'])}" if row["failed"] else "all"
            holds += " and commands" if row.get("commands", {}).get("scores") else ""
            text += f"| {family} | {' | '.join(cells)} | {holds} |\n"
    if failed := reasons(rows):
        text += "\n## Where something does not hold\n"
    for (family, name), why in failed:
        text += f"- {family}, {name}: {why.replace('<', '&lt;')}\n"
    text += "\n## What is not asked for\n"
    for family, reason in LEFT_OUT.items():
        text += f"- {family}: {reason}.\n"
    for check, table in (("padding", contract.MIXING), ("reload", contract.NOT_READ_BACK)):
        for family, reason in table.items():
            text += f"- {family}, {check}: {reason}.\n"
    text += "\n## What stays dense, since no picture passes through it on its way to the language tower\n"
    for family, row in sorted(rows.items()):
        if row["outside"]:
            text += f"- {family}: {', '.join(f'`{name}`' for name in row['outside'])}\n"
    return text


def reasons(rows: dict[str, dict[str, Any]]) -> list[tuple[tuple[str, str], str]]:
    """(family, check) and what went wrong there, for all that did."""
    found = []
    for family, row in sorted(rows.items()):
        found += [((family, check), why) for check, why in row["failed"].items()]
        if why := row.get("commands", {}).get("failed"):
            found.append(((family, "commands"), why))
    return found


def tower_cell(tower: dict[str, Any] | None) -> str:
    return "–" if tower is None else f"{tower['blocks']}, {tower['share']:.1%}"


def tell(number: int, count: int, family: str, what: str, row: dict[str, Any]) -> None:
    print(f"{number}/{count} {family}: {what}, {row['seconds']} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("families", nargs="*", help="only these (default: all)")
    parser.add_argument("--again", action="store_true", help="look at them even where they were looked at")
    parser.add_argument("--limit", type=int, default=300, help="seconds for one family")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.families) - set(FAMILIES)):
        parser.error(f"no family of transformers {transformers.__version__} is called {unknown[0]} here")
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    kept = known.get("families", {}) if known.get("transformers") == transformers.__version__ else {}
    rows = {family: row for family, row in kept.items() if family in FAMILIES}
    wanted = arguments.families or FAMILIES
    left = [name for name in wanted if arguments.again or name not in rows]
    for number, family in enumerate(left, 1):
        with redirect_stderr(io.StringIO()):  # each pruning would tell of itself
            row = rows[family] = look(family, arguments.limit)
        tell(number, len(left), family, f"not {', '.join(row['failed'])}" if row["failed"] else "holds", row)
        write_json(RESULTS, {"transformers": transformers.__version__, "families": rows})
    left = [name for name in wanted if name in PROCESSED and "commands" not in rows[name]]
    with tempfile.TemporaryDirectory() as place, redirect_stderr(io.StringIO()):
        data = scenes(Path(place) / "scenes")
        for number, family in enumerate(left, 1):
            row = rows[family]["commands"] = command(family, data, arguments.limit)
            tell(number, len(left), family, f"commands: {row['failed'] or 'hold'}", row)
            write_json(RESULTS, {"transformers": transformers.__version__, "families": rows})
    PAGE.write_text(page(rows), encoding="utf-8")
    for (family, name), reason in reasons(rows):
        print(f"{family}: {name}: {reason}")
    print(f"{sum(not row['failed'] for row in rows.values())} of {len(rows)} families hold; see {PAGE}")


if __name__ == "__main__":
    main()
