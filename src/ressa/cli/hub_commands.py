"""The commands that talk to the hub."""

import os
import sys
from typing import Annotated

import typer

from ressa.cli.app import command
from ressa.cli.options import JsonTarget
from ressa.cli.showing import prepare, show


@command
def push(
    model: Annotated[str, typer.Argument(help="A folder that ressa pruned, repaired or packed.")],
    repository: Annotated[str, typer.Argument(help="OWNER/NAME on the hub; it is made where there is none.")],
    private: Annotated[
        bool | None,
        typer.Option(
            "--private/--public", help="Who sees a new repository; by default what the hub does by default."
        ),
    ] = None,
    message: Annotated[str | None, typer.Option("--message", help="Of the commit.")] = None,
    json_target: JsonTarget = None,
) -> None:
    """Upload a result to the Hugging Face hub.

    Before that its zeros are counted again: what is not as its ressa.json says is not uploaded.

    \b
    Example:
      ressa push runs/repaired me/llava-1.5-7b-2-4 --private
    """
    if sys.stderr.isatty():  # the hub's own bars say how far it is
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "0")
    prepare(json_target)
    from ressa.commands.push import push_folder

    show([push_folder(model, repository, private=private, message=message)], json_target)
