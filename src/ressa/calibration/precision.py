"""Products in true fp32, whatever the process has been told about TF32 or autocast."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Within it, fp32 matrix products on `device` are fp32 products.

    Trainers switch TF32 on for the whole process, and a product under autocast runs in half precision; both
    keep 10 bits or fewer of each factor, too few for a Hessian that will be inverted. No-op on the CPU but
    for autocast.
    """
    with torch.autocast(device.type, enabled=False):
        if device.type != "cuda":
            yield
            return
        before = torch.backends.cuda.matmul.fp32_precision
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        try:
            yield
        finally:
            torch.backends.cuda.matmul.fp32_precision = before
