"""Any model that ressa loads, as lmms-eval asks one: prompts and pictures in, text or losses out."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.model import lmms
from PIL import Image
from torch.nn import functional as F

from ressa.checkpoint import load
from ressa.data import IGNORED, Batcher, Sample
from ressa.device import find_device
from ressa.errors import UsageError
from ressa.evaluation.generation import generate, on_model
from ressa.evaluation.kept import Kept
from ressa.progress import track
from ressa.provenance import fingerprint, fingerprint_weights
from ressa.warned import warn

MOST_TOKENS = 1024  # of an answer, where a task does not say; as lmms-eval's own models have it


class RessaModel(lmms):
    """A vision-language model behind ressa's Batcher and generation, so that what is measured is what
    `ressa evaluate` measures: the family's own prompt, greedy answers or beams, no sampling.

    Args, as text where they come from --model_args:
        pretrained: a folder, a hub id or an embedded model.
        batch_size: how many requests run at a time. device: as ressa has it, auto by default. dtype: auto, or
            the one to load the weights in.
        kept: a file in which answers are kept, so that what was cut short goes on.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str = 1,
        device: str | None = None,
        dtype: str = "auto",
        kept: str | Path | None = None,
        **others: Any,
    ) -> None:
        super().__init__()
        if unknown := sorted(others.keys() - {"max_batch_size"}):
            raise UsageError(f"The model 'ressa' has no argument {unknown[0]}: leave it out.")
        where = find_device(device or "auto")
        self.vlm = load(pretrained, dtype=None if dtype == "auto" else getattr(torch, dtype), device=where)
        self.model = self.vlm.model
        self.batcher = Batcher(
            self.vlm.processor, self.model.config, getattr(self.model, "generation_config", None)
        )
        self.batch_size = int(batch_size)
        self._device = where
        self.weights = fingerprint_weights(self.model.state_dict().values())
        self.kept = Kept(None if kept is None else Path(kept))

    @property
    def device(self) -> torch.device:
        return self._device

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The model's answers, in order, each cut where its task says that it ends."""
        found = [""] * len(requests)
        groups: dict[tuple[str, str], list[int]] = {}
        for place, request in enumerate(requests):
            asked = json.dumps(_understood(request.args[1], request.args[4]), sort_keys=True)
            groups.setdefault((request.args[4], asked), []).append(place)
        for (task, asked), places in groups.items():
            options = json.loads(asked)
            until = options.pop("until")
            # Requests about one picture stand together, in any number: a batch sees it once.
            samples = [self._sample(*_parts(requests[place].args)) for place in places]
            texts = generate(
                self.model,
                self.batcher,
                samples,
                batch_size=self.batch_size,
                description=f"Answering {task}",
                answers=self.kept.of(self._name(task, asked, *(sample.prompt for sample in samples))),
                **options,
            )
            for place, text in zip(places, texts, strict=True):
                found[place] = _cut(text, until)
        return found

    def loglikelihood(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """Of each continuation the mean loss in nats a token, its end included, and whether it is what the model
        would say. (lmms-eval takes the least of these numbers, as its own models return losses.)"""
        samples = []
        for request in requests:
            context, told, visual, *_ = _parts(request.args)
            continuation = told if isinstance(told, str) else told(self._document(*_parts(request.args)[3:]))
            samples.append(self._sample(context, continuation, visual, *_parts(request.args)[3:], learn=True))
        asked = [f"{sample.id} {sample.prompt} {sample.target}" for sample in samples]
        answers = self.kept.of(self._name("likelihoods", *asked))
        for start in track(range(0, len(samples), self.batch_size), "Weighing continuations"):
            places = range(start, min(start + self.batch_size, len(samples)))
            if not all(place in answers.done for place in places):
                losses = self._losses([samples[place] for place in places])
                answers.keep(dict(zip(places, losses, strict=True)))
        found = (answers.done[place] for place in range(len(samples)))
        # lmms-eval 0.7 makes text of a bare pair, and hands on whatever a GenerationResult holds.
        return [GenerationResult((loss, bool(said)), None) for loss, said in found]

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        task = requests[0].args[5]
        raise UsageError(f"{task} asks in several rounds, which ressa does not serve: leave that task out.")

    @torch.inference_mode()
    def _losses(self, samples: Sequence[Sample]) -> list[tuple[float, bool]]:
        inputs = on_model(self.batcher.training(samples), self.model)
        logits, labels = self.model(**inputs).logits, inputs["labels"]
        if not self.batcher.encoder_decoder:  # position t predicts token t + 1
            logits, labels = logits[:, :-1], labels[:, 1:]
        counted = labels != IGNORED
        losses = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none")
        means = losses.view_as(labels).masked_fill(~counted, 0).sum(1) / counted.sum(1)
        said = ((logits.argmax(-1) == labels) | ~counted).all(1)
        return list(zip(means.tolist(), said.tolist(), strict=True))

    def _name(self, *asked: str) -> str:
        """What answers are kept under: of this model, to what is asked."""
        return fingerprint([self.weights, *asked])

    def _document(self, number: Any, task: str, split: str) -> Any:
        return self.task_dict[task][split][number]

    def _sample(
        self, context: str, told: Any, visual: Any, number: Any, task: str, split: str, *, learn: bool = False
    ) -> Sample:
        shown = visual(self._document(number, task, split)) if visual is not None else []
        pictures = tuple(_pictures(shown, task))
        image = pictures[0] if len(pictures) == 1 else pictures or None
        return Sample(image, context, told if learn else None, f"{task} {number}")


def _parts(args: Sequence[Any]) -> tuple[Any, ...]:
    """(context, what is told, what shows the pictures, document's number, task, split) of a request's arguments;
    where a choice is weighed without its question, lmms-eval leaves all but two out."""
    return (*args, None, None, "", "")[:6] if len(args) == 2 else tuple(args[:6])


def _pictures(shown: Iterable[Any] | None, task: str) -> Iterable[Image.Image]:
    for each in shown or ():
        if isinstance(each, list | tuple):
            yield from _pictures(each, task)
        elif isinstance(each, Image.Image):
            yield each.convert("RGB")
        else:
            raise UsageError(
                f"{task} shows more than pictures, which ressa does not serve: leave that task out."
            )


def _understood(asked: Mapping[str, Any], task: str) -> dict[str, Any]:
    """What a task's generation_kwargs mean for `generate`, and `until`: the texts that end an answer."""
    until = asked.get("until") or []
    if asked.get("do_sample") and asked.get("temperature"):
        warn(f"{task} asks for answers drawn at random; those here are the likeliest.")
    return {
        "max_new_tokens": int(asked.get("max_new_tokens") or MOST_TOKENS),
        "min_new_tokens": int(asked.get("min_new_tokens") or 0),
        "beams": int(asked.get("num_beams") or 1),
        "length_penalty": asked.get("length_penalty"),
        "until": [until] if isinstance(until, str) else list(until),
    }


def _cut(text: str, until: Iterable[str]) -> str:
    for end in until:
        if end:
            text = text.split(end)[0]
    return text
