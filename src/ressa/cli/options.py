"""What several commands can be told."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ressa.errors import UsageError
from ressa.recipe.fields import file_to_write, folder_to_write


def _path(check: Callable[[Any], Any]) -> Callable[[Path | None], Path | None]:
    """An option's callback that checks a path as a recipe's field of that kind does."""

    def checked(value: Path | None) -> Path | None:
        try:
            return None if value is None else Path(check(value))
        except ValueError as error:
            raise UsageError(f"{str(error)[:1].upper()}{str(error)[1:]}.") from None

    return checked


Force = Annotated[bool, typer.Option("--force", help="Replace what is at the output.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done, and what it would take; load nothing.")
]
JsonTarget = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="[FILE]",
        help="The result as JSON: on standard output, or in FILE (a name that ends in .json).",
    ),
]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="The folder to write.", callback=_path(folder_to_write))
]
Figure = Annotated[
    Path | None,
    typer.Option(
        "--figure", help="Draw how sparse each block is, to this PNG file.", callback=_path(file_to_write)
    ),
]
