"""What comes before a command that does something, and how its outcome is shown."""

import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ressa.errors import RunError, UsageError
from ressa.processes import is_first
from ressa.warned import RessaWarning

if TYPE_CHECKING:
    from ressa.commands.outcome import Outcome


def prepare(json_target: str | None) -> None:
    """What comes before every command that does something."""
    _quiet()
    _try_target(json_target)


def _try_target(json_target: str | None) -> None:
    """Raises UsageError before the work if its result could not be written where `--json` says."""
    if json_target is None or json_target == "-":
        return
    from ressa.files import check_writable

    if not json_target or Path(json_target).is_dir():
        what = f"{json_target} is a folder" if json_target else "An empty name is no file's"
        raise UsageError(f"{what}: give --json the name of a file that ends in .json.")
    check_writable(json_target)


def show(outcomes: Sequence["Outcome"], json_target: str | None) -> None:
    """Print tables for people or JSON for machines; a list only when a recipe file held several recipes.

    Raises RunError, everything having been shown, where an outcome is that something is wrong.
    """
    if not is_first():
        return
    data = [outcome.data for outcome in outcomes] if len(outcomes) > 1 else outcomes[0].data
    if json_target == "-":
        print(json.dumps(data, indent=2, ensure_ascii=False))
    else:
        _print(outcomes)
    if json_target not in (None, "-"):
        from ressa.files import write_json

        write_json(str(json_target), data)
    for outcome in outcomes:
        if outcome.wrong:
            raise RunError(outcome.wrong)


def _print(outcomes: Sequence["Outcome"]) -> None:
    from rich.console import Console

    console = Console(highlight=False, emoji=False)
    for outcome in outcomes:
        for table in outcome.tables:
            console.print(table.rich())
        for line in outcome.lines:
            console.print(line, markup=False, soft_wrap=True)


def _quiet() -> None:
    """Silence what the libraries say about themselves; ressa's own progress, warnings and errors stay."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Read when the libraries are imported: they need not be imported to be told.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore")
    warnings.simplefilter("always", RessaWarning)
    warnings.showwarning = _show_warning  # type: ignore[assignment]


def _show_warning(message: Warning | str, category: type[Warning], *place: Any) -> None:
    if not is_first():
        return
    sentence, *table = str(message).splitlines()
    print(f"Warning: {sentence}", *table, sep="\n  ", file=sys.stderr, flush=True)
