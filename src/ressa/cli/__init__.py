"""The command line: parse, call one function of the library, print. Nothing else happens here.

A command's options are the fields of its recipe. PyTorch and transformers are imported only once a command
runs, so that help and most usage errors are instant. `app` and `options` are what commands are made of, one file
a group of them; `program` runs a command line.
"""

from ressa.cli.program import main

__all__ = ["main"]
