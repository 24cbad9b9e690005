"""How likely a model finds a caption given an image: the score of likelihood retrieval.

score(image, caption) = Σ_t log p(caption_t | caption_<t, prompt, image), the end token included.

`log_likelihoods` is the definition: one full forward pass a pair. `ImageFirst` gives the same numbers but
reads image and prompt once for all captions: from an encoder-decoder it keeps the encoder's output, from a
decoder-only model the key-value cache. Whether a family's model can be taken apart this way is tried out, not
looked up: the first image's scores must agree with the definition's.
"""

import copy
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from ressa.data import IGNORED, Batcher, Sample
from ressa.data.rows import along, pad
from ressa.data.sample import image_key
from ressa.evaluation.generation import keep_row, no_numbers, on_model
from ressa.evaluation.kept import Answers, Kept
from ressa.evaluation.shared_vision import shared_vision
from ressa.misfit import misfit_told
from ressa.progress import bar

if TYPE_CHECKING:
    from ressa.evaluation.tasks import Asking


def score_pairs(
    model: Any,
    batcher: Batcher,
    images: Sequence[Sample],
    captions: Sequence[str],
    *,
    batch_size: int = 64,
    answers: Answers | None = None,
) -> Tensor:
    """Log-likelihood of every caption given every image: float32 (images, captions) on the CPU.

    Each sample of `images` brings the prompt; its target is not looked at. answers: rows that an earlier run
    scored, and where to keep the rest.
    """
    answers = Kept().of("retrieval") if answers is None else answers
    # Captions of like length share a batch, so that little is padding.
    order = sorted(range(len(captions)), key=lambda index: len(captions[index].split()))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    first = [_pair(images[0], captions[index]) for index in (order[0], order[-1])]
    targets: dict[str, list[Tensor]] = {}  # prompt → every caption's ids behind it
    scores = torch.empty(len(images), len(captions))
    left = answers.share([[row] for row in range(len(images))])
    with bar("Scoring image-caption pairs", len(left) * len(captions)) as progress, torch.inference_mode():
        quick = _tried_out(model, batcher, first)
        for (row,) in left:
            image = images[row]
            if quick and image.prompt not in targets:
                targets[image.prompt] = batcher.targets([_pair(image, caption) for caption in captions])
            read = quick.read(image) if quick else {}
            for batch in batches:
                if quick:
                    found = quick.score(read, [targets[image.prompt][index] for index in batch])
                else:
                    pairs = [_pair(image, captions[index]) for index in batch]
                    found = log_likelihoods(model, batcher, pairs)
                scores[row, batch] = found.cpu()
                progress.advance(len(batch))
            keep_row(answers, row, scores, model)
    answers.gather()
    return torch.tensor([answers.done[row] for row in range(len(images))])


def score_options(
    asking: "Asking", samples: Sequence[Sample], options: Sequence[Sequence[str]], description: str
) -> list[list[float]]:
    """Log-likelihood of every option behind its sample's prompt; options: those of each sample.

    Samples of the same image should stand together, as for `generate`; several processes share out the batches.
    """
    answers = asking.answers
    pairs = [
        replace(sample, target=option)
        for sample, each in zip(samples, options, strict=True)
        for option in each
    ]
    batches = [
        range(start, min(start + asking.batch_size, len(pairs)))
        for start in range(0, len(pairs), asking.batch_size)
    ]
    left = answers.share(batches)
    with (
        bar(description, sum(map(len, left))) as progress,
        torch.inference_mode(),
        shared_vision(asking.model) as sharing,
    ):
        for places in left:
            part = [pairs[place] for place in places]
            sharing.show([image_key(pair) for pair in part])
            found = log_likelihoods(asking.model, asking.batcher, part).cpu()
            if found.isnan().any():
                no_numbers(asking.model)
            answers.keep(dict(zip(places, found.tolist(), strict=True)))
            progress.advance(len(part))
    answers.gather()
    scores = iter(answers.done[place] for place in range(len(pairs)))
    return [[next(scores) for _ in each] for each in options]


def _pair(image: Sample, caption: str) -> Sample:
    return Sample(image.image, image.prompt, caption, image.id)


def log_likelihoods(model: Any, batcher: Batcher, samples: Sequence[Sample]) -> Tensor:
    """The definition, on one batch: Σ log p over each sample's target tokens, float32 (B,)."""
    inputs = on_model(batcher.training(samples), model)
    labels = inputs["labels"]
    with misfit_told():
        logits = along(model(**inputs).logits, labels)
    if not batcher.encoder_decoder:  # position t predicts token t + 1
        logits, labels = logits[:, :-1], labels[:, 1:]
    return _picked(logits, labels)


def _picked(logits: Tensor, labels: Tensor) -> Tensor:
    """Σ log p(label) over the positions with a label. logits (B, T, V), labels (B, T) → float32 (B,)."""
    chosen = logits.float().log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return chosen.masked_fill(labels == IGNORED, 0).sum(1)


class ImageFirst:
    """Reads an image and its prompt once, then scores many captions behind them."""

    def __init__(self, model: Any, batcher: Batcher) -> None:
        self.model = model
        self.batcher = batcher
        needed = "encoder_outputs" if batcher.encoder_decoder else "past_key_values"
        self.language = next(_takers(model, needed))

    def read(self, image: Sample) -> dict[str, Any]:
        """What the captions' scores need of one image and its prompt."""
        inputs = on_model(self.batcher.generation([image]), self.model)
        mask = inputs.get("attention_mask")  # none where only the picture is read (TrOCR)
        if self.batcher.encoder_decoder:
            start = torch.zeros(1, 1, dtype=torch.long, device=self.model.device)
            output = self.model(**inputs, decoder_input_ids=start)
            output = getattr(output, "language_model_outputs", output)
            return {"mask": mask, "encoded": output.encoder_last_hidden_state}
        output = self.model(**inputs, use_cache=True)
        last = output.logits[:, -1:]
        output = getattr(output, "language_model_outputs", output)
        return {"mask": mask, "cache": output.past_key_values, "last": last}

    def score(self, read: dict[str, Any], targets: Sequence[Tensor]) -> Tensor:
        """Log-likelihood of each target (T_i,) behind what was read: float32 (B,)."""
        count = len(targets)
        labels = pad(list(targets), IGNORED).to(self.model.device)
        if self.batcher.encoder_decoder:
            encoded = BaseModelOutput(last_hidden_state=read["encoded"].expand(count, -1, -1))
            told = {} if read["mask"] is None else {"attention_mask": read["mask"].expand(count, -1)}
            logits = self.language(encoder_outputs=encoded, labels=labels, **told).logits
            return _picked(logits, labels)
        cache = copy.deepcopy(read["cache"])  # the model appends to the cache it is given
        cache.batch_repeat_interleave(count)
        # The first token follows the prompt; the last one predicts nothing that counts.
        fed = labels[:, :-1]
        logits = read["last"].expand(count, -1, -1)
        if fed.shape[1]:
            mask = torch.cat([read["mask"].expand(count, -1), (fed != IGNORED).long()], 1)
            ids = fed.masked_fill(fed == IGNORED, self.batcher.text.pad_id)
            behind = self.language(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True)
            logits = torch.cat([logits, behind.logits], 1)
        return _picked(logits, labels)


def _takers(model: Any, argument: str) -> Iterator[Any]:
    """The model and its parts that predict words and take this argument by name, the outermost first."""
    for module in model.modules():
        predicts = hasattr(module, "get_output_embeddings") and module.get_output_embeddings() is not None
        if predicts and argument in inspect.signature(module.forward).parameters:
            yield module


def _tried_out(model: Any, batcher: Batcher, pairs: Sequence[Sample]) -> ImageFirst | None:
    """`ImageFirst` where it gives these pairs of one image the scores of the definition, else None."""
    expected = log_likelihoods(model, batcher, pairs)
    try:
        quick = ImageFirst(model, batcher)
        scores = quick.score(quick.read(pairs[0]), batcher.targets(pairs))
    except (StopIteration, TypeError, ValueError, AttributeError, KeyError, IndexError, RuntimeError):
        return None
    # In half precision a token's logit is good to about 0.05, and a target sums some twenty of them; reading the image
    # wrongly costs far more than that.
    relative, absolute = (1e-3, 1e-3) if model.dtype == torch.float32 else (5e-2, 1.0)
    return quick if torch.allclose(scores, expected, rtol=relative, atol=absolute) else None
