"""Asking a model: prompts in, generated text out."""

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from ressa.data import Batcher, Sample
from ressa.data.sample import image_key
from ressa.errors import RunError, UsageError
from ressa.evaluation.kept import Answers, Kept
from ressa.evaluation.shared_vision import shared_vision
from ressa.misfit import misfit_told
from ressa.progress import bar


def generate(
    model: Any,
    batcher: Batcher,
    samples: Sequence[Sample],
    *,
    max_new_tokens: int,
    min_new_tokens: int = 0,
    beams: int = 1,
    length_penalty: float | None = None,
    repetition_penalty: float | None = None,
    batch_size: int = 32,
    description: str = "Generating",
    answers: Answers | None = None,
) -> list[str]:
    """The model's text for each sample, in order; greedy, or the best of `beams` beams. No sampling.

    Samples of the same image should stand together: the vision tower then sees it once a batch. answers: what an
    earlier run was told already, and where to keep the rest. The penalties are those of `protocols.Settings`. Several
    processes share out the batches, and each gets all texts.

    Raises RunError where the model's logits are no numbers.
    """
    if not model.can_generate():
        raise UsageError(
            f"{type(model).__name__} cannot generate text: evaluate it on retrieval only, or another model."
        )
    answers = Kept().of(description) if answers is None else answers
    # Sampling settings that a checkpoint may carry are taken away: they have no meaning here, and warn.
    options: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    options |= {"num_return_sequences": 1, "return_dict_in_generate": False}
    options |= batcher.stopping()
    if min_new_tokens:
        options["min_new_tokens"] = min_new_tokens
    if length_penalty is not None and beams > 1:  # a greedy answer has no other to be weighed against
        options["length_penalty"] = length_penalty
    if repetition_penalty is not None:
        options["repetition_penalty"] = 1.0  # transformers' own would count the prompt's tokens
    batches = [
        group[start : start + batch_size]
        for group in batcher.alike(samples)
        for start in range(0, len(group), batch_size)
    ]
    left = answers.share(batches)
    with (
        bar(description, sum(map(len, left))) as progress,
        torch.inference_mode(),
        shared_vision(model) as sharing,
    ):
        for places in left:
            part = [samples[place] for place in places]
            watch = _Watch()
            inputs = on_model(batcher.generation(part), model)
            processors = LogitsProcessorList([watch])
            if repetition_penalty is not None:
                prompt = 0 if batcher.encoder_decoder else inputs["input_ids"].shape[1]
                processors.append(RepetitionPenaltyLogitsProcessor(repetition_penalty, prompt))
            sharing.show([image_key(sample) for sample in part])
            with misfit_told():
                generated = model.generate(
                    **inputs,
                    max_new_tokens=max_new_tokens,
                    num_beams=beams,
                    logits_processor=processors,
                    **options,
                )
            watch.report(model)
            answers.keep(dict(zip(places, batcher.decode(generated, inputs), strict=True)))
            progress.advance(len(part))
    answers.gather()
    return [answers.done[place] for place in range(len(samples))]


class _Watch(LogitsProcessor):
    """Sees whether all logits of a generation are numbers; whichever were not would be taken for some word."""

    def __init__(self) -> None:
        self._broken: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        broken = ~(scores < torch.inf).all()  # −∞ forbids a word; +∞ and NaN mean nothing
        self._broken = broken if self._broken is None else self._broken | broken
        return scores

    def report(self, model: Any) -> None:
        if self._broken is not None and bool(self._broken):
            no_numbers(model)


def keep_row(answers: Answers, row: int, scores: Tensor, model: Any) -> None:
    """Keep one image's scores. Raises RunError where one is no number. scores: (images, captions)."""
    if scores[row].isnan().any():
        no_numbers(model)
    answers.keep({row: scores[row].tolist()})


def no_numbers(model: Any) -> NoReturn:
    """Raises RunError for a model whose outputs are NaN or infinite."""
    dtype = str(model.dtype).removeprefix("torch.")
    raise RunError(
        f"The model's outputs are not numbers (NaN or infinite, computed in {dtype}), so it cannot be scored: its "
        "weights are broken, or the dtype is too narrow; try --dtype float32, or make the model again."
    )


def on_model(batch: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """The batch on the model's device; floating-point tensors (pixels) in its dtype."""
    return {
        key: value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)
        for key, value in batch.items()
    }
