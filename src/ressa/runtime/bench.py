"""How fast a model reads an image and a prompt, and how fast it writes: whole generations, timed."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList


@dataclass(frozen=True)
class Speed:
    """One batch size. first_token: seconds from the call to the first new token, vision tower included. prefill:
    tokens of image and prompt read in a second of that. decode: tokens written in a second afterwards. weights,
    peak: bytes of the model, and of all that was in GPU memory at most (None on a CPU). tokens: what was written,
    (batch, new), which tells whether two models agree."""

    batch: int
    prompt_tokens: int
    new_tokens: int
    first_token: float
    prefill: float
    decode: float
    weights: int
    peak: int | None
    tokens: Tensor


@torch.inference_mode()
def time_generation(
    model: Any,
    inputs: Mapping[str, Tensor],
    new_tokens: int,
    *,
    prompt_tokens: int,
    rounds: int = 3,
    static: bool = False,
) -> Speed:
    """Medians of `rounds` greedy generations of exactly `new_tokens`, after one (compiled: two) that does not count.

    inputs: what `model.generate` takes, on its device. static: with a static cache, which on a GPU lets
    transformers compile the decoding step into a CUDA graph.
    """
    device = model.device
    options: dict[str, Any] = {"cache_implementation": "static"} if static else {}
    options |= {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, "num_beams": 1}
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    firsts, steps = [], []
    warm = 2 if static else 1
    for turn in range(warm + rounds):
        clock = _Clock(device)
        tokens = model.generate(
            **inputs,
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            stopping_criteria=StoppingCriteriaList([clock]),
            **options,
        )
        end = clock.now()
        if turn >= warm:
            firsts.append(clock.first - clock.begin)
            steps.append((end - clock.first) / max(1, new_tokens - 1))
    batch = len(tokens)
    return Speed(
        batch=batch,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        first_token=median(firsts),
        prefill=batch * prompt_tokens / median(firsts),
        decode=batch / median(steps) if new_tokens > 1 else 0.0,
        weights=model.get_memory_footprint(),
        peak=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        tokens=tokens[:, -new_tokens:].cpu(),
    )


class _Clock(StoppingCriteria):
    """Notes when the first token is there; stops nothing."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.first = 0.0
        self.begin = self.now()

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        if not self.first:
            self.first = self.now()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
