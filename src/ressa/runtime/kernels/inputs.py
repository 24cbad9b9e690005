"""What the kernels ask of x."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from ressa.errors import UsageError


def computing_dtype(x: Tensor, bias: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """x and bias in the weight's dtype: cast under autocast, as for a dense layer.

    Raises UsageError where the dtypes differ otherwise.
    """
    if x.dtype != dtype:
        if not torch.is_autocast_enabled(x.device.type):
            raise UsageError(f"The input is {x.dtype} but the weight {dtype}: cast one, or use autocast.")
        x = x.to(dtype)
    if bias is not None and bias.dtype != dtype:
        bias = bias.to(dtype)
    return x, bias


def aligned_rows(x: Tensor, columns: int) -> Tensor:
    """x (…, columns) as rows of 16-byte pieces (n, columns or up to 7 more), copied only where it must be."""
    rows = x if x.dim() == 2 else x.reshape(-1, columns)
    if columns % 8:
        return F.pad(rows, (0, -columns % 8))
    if rows.stride(1) != 1 or rows.stride(0) % 8 or rows.data_ptr() % 16:
        return rows.clone(memory_format=torch.contiguous_format)
    return rows


def is_traced() -> bool:
    """Whether torch.compile, torch.export or a dispatch mode (fake tensors, make_fx) watches the calls."""
    return torch.compiler.is_compiling() or is_in_torch_dispatch_mode()
