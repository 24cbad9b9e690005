"""The program's commands, and how a function becomes one."""

import functools
from collections.abc import Callable
from typing import Annotated, Any

import typer

from ressa import __version__

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)


class Interrupted(Exception):
    """Ctrl-C or a termination signal, as an exception that the parser's own handling leaves alone."""


def interruptible(function: Callable[..., None]) -> Callable[..., None]:
    """Let an interruption reach `main` as `Interrupted`."""

    @functools.wraps(function)
    def guarded(*arguments: Any, **options: Any) -> None:
        try:
            function(*arguments, **options)
        except KeyboardInterrupt:
            raise Interrupted from None

    return guarded


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a function as the command of its name; its docstring is the command's help."""
    return app.command(function.__name__)(interruptible(function))


def subcommand(group: typer.Typer, name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The same, within a group of commands."""
    return lambda function: group.command(name)(interruptible(function))


def _version(asked: bool) -> None:
    if asked:
        print(f"ressa {__version__}")
        raise typer.Exit


@app.callback()
def ressa(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Make a vision-language model sparse, repair it, and prove both."""
