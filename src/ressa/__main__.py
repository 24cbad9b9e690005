"""The `ressa` program, and `python -m ressa`."""

from typing import NoReturn

from ressa.cli import main
from ressa.processes import leave


def run() -> NoReturn:
    """Run the command line of this process and end it."""
    leave(main())


if __name__ == "__main__":
    run()
