"""The commands of `ressa data`: datasets that are known, what a folder holds, getting one."""

from pathlib import Path
from typing import Annotated

import typer

from ressa.cli.app import app, subcommand
from ressa.cli.options import JsonTarget
from ressa.cli.showing import prepare, show

data = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)
app.add_typer(data, name="data", help="Datasets: which there are, what a folder holds, getting one.")


@subcommand(data, "list")
def list_(json_target: JsonTarget = None) -> None:
    """Show the datasets that are known.

    What each serves, what it weighs, whose pictures it uses and under which licence it comes.

    \b
    Example:
      ressa data list
    """
    prepare(json_target)
    from ressa.commands.data import list_datasets

    show([list_datasets()], json_target)


@subcommand(data, "check")
def check(
    folder: Annotated[str, typer.Argument(help="A data folder.")],
    pictures: Annotated[
        bool,
        typer.Option("--pictures/--no-pictures", help="Open every picture, and compare them by content."),
    ] = True,
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Follow symbolic links that lead out of the folder.")
    ] = False,
    json_target: JsonTarget = None,
) -> None:
    """Say what a data folder holds, and what is wrong with it.

    Samples and pictures of every task and split; entries that cannot be used, pictures that are missing or cannot
    be read; pictures that are scored on and learned from, found by their content. Exit code 1 if anything is wrong.

    \b
    Example:
      ressa data check ./coco
    """
    prepare(json_target)
    from ressa.commands.data import check_folder

    show([check_folder(folder, pictures=pictures, follow_links=follow_links)], json_target)


@subcommand(data, "download")
def download(
    name: Annotated[str, typer.Argument(help="A dataset's name, as `ressa data list` shows it.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder to put it in, beside what is there.")
    ] = Path("data"),
    keep: Annotated[bool, typer.Option("--keep", help="Keep the archives when they are unpacked.")] = False,
    json_target: JsonTarget = None,
) -> None:
    """Download a dataset from its makers' own place, and unpack it.

    It goes on where it was after an interruption. What its makers give to nobody without a form has to be fetched
    by hand; the command says how.

    \b
    Example:
      ressa data download coco2017 -o ./coco
    """
    prepare(json_target)
    from ressa.commands.data import download_dataset

    show([download_dataset(name, output, keep=keep)], json_target)
