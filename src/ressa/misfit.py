"""What a model's own code says of inputs that it cannot take: its files may be of different models.

A config, a generation config and a processor that were put together by hand need not fit: another image size, another
number of image tokens. Only the forward knows, and says so in the words of its family.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ressa.errors import RunError, UsageError

_SAYS = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    NotImplementedError,
)
_OF_THE_MACHINE = ("CUDA", "cuBLAS", "NCCL", "allocate memory", "out of memory")


@contextmanager
def misfit_told() -> Iterator[None]:
    """Around a forward or a generation: what is raised in it becomes a RunError that says what to look at."""
    try:
        yield
    except (UsageError, RunError, torch.OutOfMemoryError):
        raise
    except _SAYS as error:
        reason = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
        if any(word in reason for word in _OF_THE_MACHINE):
            raise
        frames = traceback.extract_tb(error.__traceback__)
        frame = next((each for each in reversed(frames) if "/torch/" not in each.filename), frames[-1])
        raise RunError(
            f"The model fails on what its processor gives it ({reason}; {Path(frame.filename).name}, line "
            f"{frame.lineno}): see that config.json, generation_config.json and the processor's files are of one model."
        ) from error
