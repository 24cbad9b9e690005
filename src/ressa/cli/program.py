"""Run one command line: its signals, its errors as sentences, its exit code."""

import functools
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer

from ressa.cli import (  # noqa: F401 (they register commands)
    data_commands,
    folder_commands,
    hub_commands,
    predictions_commands,
    recipe_commands,
)
from ressa.cli.app import Interrupted, app
from ressa.errors import RunError, UsageError

ORDER = (
    *("demo", "prune", "repair", "evaluate", "score", "report", "sweep", "run"),
    *("inspect", "pack", "unpack", "bench", "data", "push"),
)
"""Of the commands in the help: what one does first."""

LONGEST = 1000  # characters of a sentence; of a longer one, whatever it quotes, the ends are shown


@functools.cache
def _parser() -> Any:
    """What reads a command line, made once."""
    parser: Any = typer.main.get_command(app)
    parser.commands = {name: parser.commands[name] for name in sorted(parser.commands, key=_place)}
    return parser


def _place(name: str) -> int:
    """Of a command in the help."""
    return ORDER.index(name) if name in ORDER else len(ORDER)


def _wait_patiently() -> None:
    """Let OpenMP threads that wait for each other sleep, unless the user has said how they are to wait.

    On cores that others use too, threads that spin keep from running those that they wait for. It is read
    when PyTorch is imported.
    """
    if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}:
        os.environ["OMP_WAIT_POLICY"] = "passive"


def _json_values(arguments: Sequence[str]) -> list[str]:
    """Give a bare `--json` its value, `-`; what follows it is a file name if it ends in .json, or is `-` or a device.

    `/dev/stdout` is `-` too: where a shell sends it to a file, that file would be taken away from under the shell.
    """
    given = list(arguments)
    for index, word in enumerate(given):
        following = given[index + 1] if index + 1 < len(given) else ""
        names = following == "-" or following.endswith(".json") or following.startswith("/dev/")
        if word == "--json=/dev/stdout" or (word == "--json" and not names):
            given[index] = "--json=-"
        elif word == "--json" and following == "/dev/stdout":
            given[index + 1] = "-"
    return given


def _terminate(*_: Any) -> None:
    raise KeyboardInterrupt


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """A termination signal ends a run as Ctrl-C does. A signal that the parent had this process ignore, as shells
    have their background jobs ignore Ctrl-C, stays ignored; Python sees to Ctrl-C itself."""
    ours = threading.current_thread() is threading.main_thread()  # no other thread may
    if not ours or signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    arguments = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    _wait_patiently()
    try:
        with _ending_on_sigterm():
            status = _parser().main(_json_values(arguments), prog_name="ressa", standalone_mode=False)
        sys.stdout.flush()  # a pipe that nobody reads any more is known here, not in the interpreter's teardown
    except (KeyboardInterrupt, Interrupted):
        return _fail(130, "Interrupted: nothing half-written is left; the same command goes on where it can.")
    except UsageError as error:
        return _fail(2, error.sentence, error.table)
    except RunError as error:
        return _fail(1, str(error))
    except BrokenPipeError:  # whoever read the output has seen enough (`ressa inspect … | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the last flush is silent
        return 1
    except OSError as error:
        return _fail(1, f"The system refused: {error}.")
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # the parser's own
            return _fail(error.exit_code, f"{error.format_message().rstrip('.')}: see --help.")
        if type(error).__name__ == "OutOfMemoryError":
            return _fail(1, "The device ran out of memory: lower --batch-size or use --device cpu.")
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):  # Python's and PyTorch's
            return _fail(
                1, "The machine has not enough memory: lower --batch-size, or choose a smaller model."
            )
        traceback.print_exc()
        return _fail(1, "That is a defect in ressa: please report it with the lines above.")
    return status if isinstance(status, int) else 0


def _fail(status: int, sentence: str, table: str = "") -> int:
    sentence = " ".join(sentence.split())
    if len(sentence) > LONGEST:
        sentence = f"{sentence[: LONGEST // 2]} … {sentence[-LONGEST // 2 :]}"
    said = "\n  ".join([f"ressa: {sentence}", *table.splitlines()])
    # A file name may be bytes that are no text; every stream takes what stands for them.
    print(said.encode(errors="backslashreplace").decode(), file=sys.stderr)
    return status
