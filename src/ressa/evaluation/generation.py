"""Asking a model: prompts in, generated text out."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ressa.data import Batcher, Sample
from ressa.data.sample import image_key
from ressa.errors import UsageError
from ressa.evaluation.shared_vision import shared_vision
from ressa.progress import bar


def generate(
    model: Any,
    batcher: Batcher,
    samples: Sequence[Sample],
    *,
    max_new_tokens: int,
    beams: int = 1,
    batch_size: int = 32,
    description: str = "Generating",
) -> list[str]:
    """The model's text for each sample, in order; greedy, or the best of `beams` beams. No sampling.

    Samples of the same image should stand together: the vision tower then sees it once a batch.
    """
    if not model.can_generate():
        raise UsageError(
            f"{type(model).__name__} cannot generate text: evaluate it on retrieval only, or another model."
        )
    texts = [""] * len(samples)
    # Sampling settings that a checkpoint may carry are taken away: they have no meaning here, and warn.
    options: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    options |= batcher.stopping()
    with bar(description, len(samples)) as progress, torch.inference_mode(), shared_vision(model) as sharing:
        for group in batcher.alike(samples):
            for start in range(0, len(group), batch_size):
                places = group[start : start + batch_size]
                part = [samples[place] for place in places]
                inputs = on_model(batcher.generation(part), model)
                sharing.show([image_key(sample) for sample in part])
                generated = model.generate(
                    **inputs, max_new_tokens=max_new_tokens, num_beams=beams, **options
                )
                for place, text in zip(places, batcher.decode(generated, inputs), strict=True):
                    texts[place] = text
                progress.advance(len(part))
    return texts


def on_model(batch: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """The batch on the model's device; floating-point tensors (pixels) in its dtype."""
    return {
        key: value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)
        for key, value in batch.items()
    }
