"""Scores of all pairs of pictures and texts by a dual encoder's embeddings; each picture and text is embedded once."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from ressa.data import Sample
from ressa.data.images import ImageCache
from ressa.data.pairs import PairBatcher
from ressa.dual import DualEncoder, similarity
from ressa.evaluation.generation import on_model
from ressa.progress import bar

TERMS = 2**26  # products of vectors at a time: a quarter of a gigabyte


def score_by_embedding(
    model: Any,
    processor: Any,
    images: Sequence[Sample],
    texts: Sequence[str],
    *,
    batch_size: int = 64,
    together: int = 1,
) -> Tensor:
    """MaxSim of all pairs, which is the cosine where each has one vector: float32 (images, texts) on the CPU.

    together: so many texts in a row count as one, (images, texts / together): by the mean of their vectors, made of
    length one, or, where a text has several, by the mean of their scores.
    """
    embedding = Embedding(model, processor)
    cache = ImageCache()
    rows = []
    with (
        bar("Embedding images and texts", len(images) + len(texts)) as progress,
        torch.inference_mode(),
    ):
        read = []
        for start in range(0, len(texts), batch_size):
            read.append(embedding.texts(texts[start : start + batch_size]))
            progress.advance(len(read[-1]))
        said = nn.utils.rnn.pad_sequence(list(chain.from_iterable(read)), batch_first=True)
        if together > 1 and said.shape[1] == 1:
            said, together = F.normalize(said.unflatten(0, (-1, together)).mean(1), dim=-1), 1
        for start in range(0, len(images), batch_size):
            part = cache.load_single(images[start : start + batch_size])
            seen = embedding.pictures(part)
            step = max(1, TERMS // (seen.shape[0] * seen.shape[1] * said.shape[1]))
            rows.append(torch.cat([similarity(seen, each).cpu() for each in said.split(step)], 1))
            progress.advance(len(part))
    scores = torch.cat(rows)
    return scores if together == 1 else scores.unflatten(1, (-1, together)).mean(2)


class Embedding:
    """Embeds pictures and texts apart, also where the model's forward takes both: beside one of the other kind."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model
        self.batcher = PairBatcher(model, processor)
        self.encoder = DualEncoder(model, processor)
        self._blank = Image.new("RGB", (32, 32))
        self._of_pictures = set(dict(processor.image_processor([self._blank], return_tensors="pt")))

    def pictures(self, pictures: list[Image.Image]) -> Tensor:
        """Unit vectors (N, n, d), on the model's device."""
        if self.batcher.late:
            return self.encoder.late_vectors(self._run, self.batcher.pictures(pictures))
        both = self.batcher.both(pictures, ["a"] * len(pictures))
        one_text = {name: x if name in self._of_pictures else x[:1] for name, x in both.items()}
        return self.encoder.embed(self._run, self.model, {"both": one_text}).images

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (M, m, d), zeros where there is no token."""
        if self.batcher.late:
            return self.encoder.late_vectors(self._run, self.batcher.texts(list(texts)))
        both = self.batcher.both([self._blank] * len(texts), list(texts))
        one_picture = {name: x[:1] if name in self._of_pictures else x for name, x in both.items()}
        return self.encoder.embed(self._run, self.model, {"both": one_picture}).texts

    def _run(self, inputs: Any) -> Any:
        return self.model(**on_model(dict(inputs), self.model))
