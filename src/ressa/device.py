"""Where a run computes."""

import torch

from ressa.errors import UsageError


def find_device(name: str) -> torch.device:
    """`auto` is the first CUDA device or else the CPU. Raises UsageError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(
            f"There is no device '{name}': choose auto, cpu, cuda, cuda:0 and so on, or mps."
        ) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"There is no device '{name}' here: use 'auto' or 'cpu'.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("There is no device 'mps' here: use 'auto' or 'cpu'.")
    return device
