"""Where a run computes, and what memory it may take."""

from pathlib import Path

import psutil
import torch

from ressa.errors import UsageError

_CGROUP = Path("/sys/fs/cgroup")


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


def host_memory() -> int:
    """Bytes of memory that this process may still take: what is free, and what its container leaves it."""
    free = psutil.virtual_memory().available
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        cached = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return min(free, limit - used + int(cached.get("file", 0)))
    except (OSError, ValueError):  # no container, or no limit ("max")
        return free
