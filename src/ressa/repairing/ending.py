"""Which end of an answer to teach, where a model's files disagree: the one that the dense model gives."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ressa.data.batcher import Batcher
from ressa.data.ending import Ending
from ressa.data.rows import along
from ressa.data.sample import Sample
from ressa.repairing.forward import Forward, logits_of
from ressa.repairing.losses import IGNORED
from ressa.warned import warn

JUDGED = 16  # samples


def settled_batcher(vlm: Any, judge: nn.Module, samples: Sequence[Sample], forward: Forward) -> Batcher:
    """A batcher whose targets end as the model's answers do.

    vlm: model and processor that are to be trained. judge: the dense model where there is one; it is asked, on the
    first of the samples, only where the files disagree, and then it is said what was found.
    """
    generation = getattr(vlm.model, "generation_config", None)
    batcher = Batcher(vlm.processor, vlm.model.config, generation)
    endings = batcher.text.endings
    if endings.agreed:
        return batcher
    found = probabilities(judge, batcher, samples[:JUDGED], forward)
    end = max(found, key=lambda ending: found[ending])
    settled = Batcher(vlm.processor, vlm.model.config, generation, end=end)
    others = ", ".join(f"{other} {share:.1%}" for other, share in found.items() if other != end)
    advice = (
        ""
        if end.ids[-1] in endings.stops
        else ", and add it to eos_token_id in generation_config.json, for generation does not stop there"
    )
    warn(
        f"The model's files disagree on what ends an answer: after {min(JUDGED, len(samples))} known answers it gives "
        f"{end} a probability of {found[end]:.1%} (and {others}), so answers are taught to end with {end.text}; "
        f"look at its tokenizer, chat template and generation config{advice}."
    )
    return settled


@torch.no_grad()
def probabilities(
    model: nn.Module, batcher: Batcher, samples: Sequence[Sample], forward: Forward
) -> dict[Ending, float]:
    """Ending → the probability of its first token behind each sample's target, mean over the samples."""
    batch = batcher.training(samples)
    with forward.of(model) as run:
        logits = along(logits_of(run(batch)), batch["labels"])
    rows = _behind_the_answer(logits, batch["labels"].to(logits.device), batcher)
    shares = rows.float().softmax(-1).mean(0)
    return {ending: float(shares[ending.ids[0]]) for ending in batcher.text.endings.candidates}


def _behind_the_answer(logits: Tensor, labels: Tensor, batcher: Batcher) -> Tensor:
    """The logits (samples, vocabulary) that predict the first token of each target's end."""
    end = batcher.text.end
    places = torch.arange(labels.shape[1], device=labels.device)
    last = torch.where(labels != IGNORED, places, 0).amax(1) - (len(end.ids) - 1 if end else 0)
    if not batcher.encoder_decoder:  # position t predicts token t + 1
        last = last - 1
    return logits[torch.arange(len(labels), device=labels.device), last.clamp_min(0)]
