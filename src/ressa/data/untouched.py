"""A processor that is used stays as it was: fast tokenizers remember how they last padded and cut, and save it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def untouched(processor: Any) -> Iterator[None]:
    """Within this context the processor's tokenizers may pad and cut; afterwards they are set as they were."""
    parts = [getattr(part, "backend_tokenizer", None) for part in vars(processor).values()]
    before = [(part, part.padding, part.truncation) for part in parts if part is not None]
    try:
        yield
    finally:
        for part, padding, truncation in before:
            if part.padding != padding:
                part.no_padding() if padding is None else part.enable_padding(**padding)
            if part.truncation != truncation:
                part.no_truncation() if truncation is None else part.enable_truncation(**truncation)
