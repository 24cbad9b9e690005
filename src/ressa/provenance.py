"""What made a result: versions, device, and a fingerprint of the data."""

import hashlib
import platform
from collections.abc import Iterable
from importlib.metadata import version
from typing import TYPE_CHECKING

from ressa import __version__

if TYPE_CHECKING:
    from torch import Tensor


def versions() -> dict[str, str]:
    """The software (and accelerator) a result was made with."""
    import torch

    libraries = ("torch", "transformers", "peft")
    found = {"ressa": __version__, "python": platform.python_version()}
    found |= {name: version(name) for name in libraries}
    if torch.cuda.is_available():
        found["device"] = torch.cuda.get_device_name()
    return found


def fingerprint(parts: Iterable[str | bytes]) -> str:
    """A short SHA-256 digest of a sequence of strings or byte strings (order matters)."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:16]


def fingerprint_weights(weights: Iterable["Tensor"]) -> str:
    """A digest of about a thousand numbers of each weight: enough to tell one model from another of its name."""
    flat = (weight.detach().reshape(-1) for weight in weights)
    return fingerprint(each[:: max(1, len(each) // 1024)].float().cpu().numpy().tobytes() for each in flat)
