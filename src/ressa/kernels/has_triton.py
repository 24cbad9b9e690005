"""Whether Triton is installed: the kernels written in it are imported when they are first needed, and only then."""

import importlib.util

HAS_TRITON = importlib.util.find_spec("triton") is not None
