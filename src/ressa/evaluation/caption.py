"""Captions: CIDEr-D, and where the data names each image's objects, how many of them are mentioned."""

from collections.abc import Sequence
from typing import Any

from ressa.data import Batcher, CaptionedImage
from ressa.errors import UsageError
from ressa.evaluation.decoding import Decoding
from ressa.evaluation.generation import generate
from ressa.evaluation.kept import Answers
from ressa.evaluation.metrics.cider import cider_d, have_java
from ressa.evaluation.metrics.object_recall import object_recall
from ressa.progress import console

NO_JAVA = (
    "Java was not found, so captions are split by ressa's own tokenizer instead of the PTB tokenizer and the "
    "figure is called 'CIDEr-D (regex tokenizer)': install a Java runtime for the official one."
)


def describe_images(
    model: Any,
    batcher: Batcher,
    images: Sequence[CaptionedImage],
    *,
    decoding: Decoding,
    batch_size: int,
    answers: Answers | None = None,
) -> dict[str, Any]:
    """Generate a caption for each image and score it: {score (CIDEr-D ×100), metric, n, recall (0–100)}.

    `recall` is there where the dataset names objects.
    """
    if len(images) < 2:
        raise UsageError("CIDEr-D weighs words by how few images they fit: caption at least two images.")
    predictions = generate(
        model,
        batcher,
        images,
        **decoding.captions(),
        batch_size=batch_size,
        answers=answers,
        description="Captioning images",
    )
    if not have_java():
        console.print(NO_JAVA)
    score, metric = cider_d(predictions, [image.captions for image in images])
    result: dict[str, Any] = {"score": score, "metric": metric, "n": len(images)}
    if any(image.objects for image in images):
        result["recall"] = 100 * object_recall(predictions, [image.objects for image in images])
    return result
