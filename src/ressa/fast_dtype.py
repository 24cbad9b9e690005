"""Where half precision is fast, and models that compute in float32 where it is not."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

HALVES = (torch.bfloat16, torch.float16)
SMALL = 50_000_000  # parameters


def is_fast(dtype: torch.dtype, device: torch.device | str) -> bool:
    """Whether matrix products on the device are faster in this half precision than in float32.

    On a CPU that takes matrix units (AMX), and oneDNN's leave to use them: with AVX512_BF16 alone bfloat16 is
    1.6 times as slow as float32, without it 5 to 13 times, and float16 at best as fast.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return dtype is torch.float16 or torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu" or dtype is not torch.bfloat16:
        return False
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "DEFAULT").upper()
    allowed = limit in ("DEFAULT", "ALL") or "AMX" in limit
    return allowed and bool(torch.cpu.get_capabilities().get("amx_bf16"))


def means_bf16(precision: str, device: torch.device | str, model: nn.Module) -> bool:
    """Whether "fp32", "bf16" or "auto" (bf16 where that is fast) means training a model under autocast to bfloat16."""
    if precision != "auto":
        return precision == "bf16"
    wide = next(model.parameters()).dtype is torch.float32
    return is_fast(torch.bfloat16, device) and not (wide and waits_for_host(model, device))


def waits_for_host(model: nn.Module, device: torch.device | str) -> bool:
    """Whether a GPU trains a model this small faster than the host can ask it to: half precision then gains nothing,
    and autocast's conversions are a third of what is asked for."""
    return torch.device(device).type == "cuda" and sum(p.numel() for p in model.parameters()) < SMALL


@contextmanager
def in_fast_dtype(
    *models: nn.Module, device: torch.device | str, asked: str = "auto", trains: bool = False
) -> Iterator[str]:
    """Within it the models compute in float32 where their own half precision is slow on the device.

    asked: another dtype than "auto" leaves them as they are. trains: whether it is training that they are there for
    (`waits_for_host`). Yields the dtype that the first now has, by name. Afterwards every tensor has its own dtype
    again, and what was not zero is still not zero.
    """
    small = trains and all(waits_for_host(model, device) for model in models)

    def slow_in(dtype: torch.dtype) -> bool:
        return dtype in HALVES and (small or not is_fast(dtype, device))

    slow = [
        (model, {name: tensor.dtype for name, tensor in _tensors(model) if slow_in(tensor.dtype)})
        for model in models
        if asked == "auto"
    ]
    for model, dtypes in slow:
        for name, tensor in _tensors(model):
            if name in dtypes:
                tensor.data = tensor.data.float()
    try:
        yield str(next(models[0].parameters()).dtype).removeprefix("torch.")
    finally:
        for model, dtypes in slow:
            for name, tensor in _tensors(model):
                if name in dtypes:
                    tensor.data = narrowed(tensor.data, dtypes[name])


def is_slow(model: nn.Module, device: torch.device | str, *, trains: bool = False) -> bool:
    """Whether `in_fast_dtype` would have a model compute in float32 on the device."""
    halves = {tensor.dtype for _, tensor in _tensors(model)} & {*HALVES}
    small = trains and waits_for_host(model, device)
    return any(small or not is_fast(dtype, device) for dtype in halves)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return chain(model.named_parameters(), model.named_buffers())


def narrowed(wide: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor in a narrower dtype, in which what was not zero is still not zero."""
    narrow = wide.to(dtype)
    # float16 has no such small numbers: a kept weight must not become one more zero.
    narrow[(narrow == 0) & (wide != 0)] = torch.finfo(dtype).tiny
    return narrow
