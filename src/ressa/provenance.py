"""What made a result: versions, device, and a fingerprint of the data."""

import hashlib
import platform
from collections.abc import Iterable
from importlib.metadata import version

from ressa import __version__


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
