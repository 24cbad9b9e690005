"""From the answer to the picture's patches: attention brought back through the language model and the connector.

- Language model: the attention that the positions which predict the answer's words pay to the picture's tokens,
  directly, mean over heads and layers. (Of an encoder-decoder it is the decoder's cross-attention to what the encoder
  made of them.)
- Connector: where it attends (a Q-Former, a resampler), its layers are rolled out: each layer's attention W, mean over
  heads, as ½ W + ½ I for the residual connection, and the layers multiplied; a cross-attention moves half of a query's
  share to the patches it reads (Abnar & Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, §3). Where
  it does not attend (LLaVA's projector), a token is a patch, or a square of merged ones.

It ends at the patches as the vision tower gives them. The language model is not rolled out: a causal one lets later
positions see earlier ones only, so the product of its layers ends on the picture's first tokens whatever is asked
(docs/report.md has the numbers). A map says what was attended to, not what decided.
"""

from collections.abc import Sequence
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from ressa.anatomy import Anatomy
from ressa.data import IGNORED, Batcher, Sample
from ressa.evaluation.generation import on_model
from ressa.seeing.attention import Attended, Captured, capture

SOURCE = (
    "attention of the answer's tokens (its end left out) to the picture's tokens, mean over heads and layers, brought "
    "on to the patches by rollout of the connector's attention (Abnar & Zuidema 2020) where it has any"
)
SPECIAL = 16  # at most so many tokens stand before the patches: a class token, registers


class NoMap(Exception):
    """Why attention cannot be brought back to the picture, as the end of a sentence."""


def attention_maps(model: Any, batcher: Batcher, anatomy: Anatomy, samples: Sequence[Sample]) -> list[Tensor]:
    """One forward over samples whose targets are the answers; for each a map (rows, columns), float32, that sums to 1.

    Raises NoMap where the model gives no attention, or none that leads to places in the picture.
    """
    inputs = on_model(batcher.training(samples), model)
    return maps_of_batch(model, anatomy, inputs, batcher.text.image_token_id, batcher.encoder_decoder)


def maps_of_batch(
    model: Any, anatomy: Anatomy, inputs: dict[str, Tensor], image_token: int, encoder_decoder: bool
) -> list[Tensor]:
    """The same of a batch as the model's forward takes it, with `labels` that are −100 everywhere but on the answer.

    image_token: the id that stands for the picture in `input_ids`; encoder_decoder: labels are a decoder's own.
    """
    with capture(model, anatomy) as captured, torch.inference_mode():
        model(**inputs)
    if captured.pictures not in (None, len(inputs["input_ids"])):
        raise NoMap("it reads several crops of a picture")
    rows = _answer_rows(inputs["labels"].cpu(), encoder_decoder)
    onto_tokens, tokens = _language(captured, anatomy, inputs["input_ids"].cpu(), image_token)
    answers = torch.stack([onto[where].mean(0) for onto, where in zip(onto_tokens, rows, strict=True)])
    seen = {each.weights.shape[2] for each in captured.of("vision")}
    alone = next(iter(seen)) if len(seen) == 1 else None
    onto_patches, merged = _connector(captured.of("connector"), alone, answers, tokens)
    grid = _grid(captured.grid, onto_patches.shape[1], inputs, merged)
    count = grid[0] * grid[1]
    maps = onto_patches[:, -count:].reshape(-1, *grid)
    total = maps.sum((1, 2), keepdim=True)
    if not (total > 0).all():
        raise NoMap("none of it reaches the picture's patches")
    return list(maps / total)


def _answer_rows(labels: Tensor, encoder_decoder: bool) -> list[Tensor]:
    """For each sample the positions that predict its answer's tokens, without the end token where there are others."""
    if not encoder_decoder:  # position t predicts token t + 1
        labels = labels[:, 1:]
    found = [(row != IGNORED).nonzero()[:, 0] for row in labels]
    return [where[:-1] if len(where) > 1 else where for where in found]


def _language(
    captured: Captured, anatomy: Anatomy, input_ids: Tensor, image_token: int
) -> tuple[list[Tensor], int]:
    """For each sample (T, n), how much each position attends to each of the picture's n tokens; and n."""
    attended = captured.of("language")
    if not attended:
        raise NoMap("its language model gives no attention probabilities")
    decoder = {chain.name for chain in anatomy.chains("language") if chain.reads_labels}
    crossed = [each.weights for each in attended if each.cross and (not decoder or each.chain in decoder)]
    if decoder and not crossed:
        raise NoMap("its decoder gives no attention to what its encoder read")
    onto = _mean(crossed or [each.weights for each in attended])
    if (
        crossed and not decoder
    ):  # the words of some layers read the picture's tokens, which are not among them
        return list(onto), onto.shape[2]
    pictures = input_ids == image_token
    counts = pictures.sum(1)
    if not counts[0] or (counts != counts[0]).any():
        raise NoMap("its text has no tokens that stand for the picture, or not equally many for each")
    if input_ids.shape[1] != onto.shape[2]:
        raise NoMap("its language model reads another number of tokens than its processor gives")
    return [each[:, where] for each, where in zip(onto, pictures, strict=True)], int(counts[0])


def _mean(layers: Sequence[Tensor]) -> Tensor:
    """The mean over layers (B, Q, K). Raises NoMap where these differ in what they see."""
    if len({layer.shape for layer in layers}) > 1:
        raise NoMap("its layers attend to differing numbers of states")
    return torch.stack(list(layers)).mean(0)


def _rolled_out(attended: Sequence[Attended], seen: int | None) -> Tensor:
    """Each of a connector's outputs over the patches that its cross-attentions read: (B, Q, P).

    attended: its layers in the order of their calls. seen: how many tokens the vision tower gives, where that is known.
    What is left of a row's sum of 1 stays with the queries themselves.
    """
    count = max(each.weights.shape[1] for each in attended)
    first = next(each.weights for each in attended if each.cross)
    # Some resamplers' keys are the patches with their own queries behind them.
    patches = seen if seen is not None and first.shape[2] == seen + first.shape[1] else first.shape[2]
    onto = torch.zeros(first.shape[0], count, patches)
    for each in attended:
        rows, keys = each.weights.shape[1:]
        others = patches if each.cross else 0
        if keys not in (others, others + rows) or each.weights.shape[0] != len(onto):
            raise NoMap("its connector attends to states of differing number")
        read = 0.5 * onto[:, :rows]
        read += 0.5 * each.weights[:, :, others:] @ onto[:, : keys - others]
        if each.cross:
            read += 0.5 * each.weights[:, :, :others]
        onto[:, :rows] = read
    return onto


def _connector(
    attended: Sequence[Attended], seen: int | None, answers: Tensor, tokens: int
) -> tuple[Tensor, bool]:
    """Bring shares of the picture's tokens (B, n) on to what the vision tower gives (B, P).

    The second value: whether a token may stand for several patches.
    """
    if not any(each.cross for each in attended):
        return answers, True
    onto = _rolled_out(attended, seen)
    if onto.shape[1] < tokens:
        raise NoMap("its connector gives fewer tokens than its language model reads")
    if onto.shape[0] != answers.shape[0]:
        raise NoMap("its connector reads several pictures a sample")
    return (answers[:, None] @ onto[:, :tokens])[:, 0], False


def _grid(
    cut: tuple[int, int] | None, count: int, inputs: dict[str, Tensor], merged: bool
) -> tuple[int, int]:
    """Rows and columns of `count` tokens, of which the last rows × columns are patches in reading order."""
    sizes = inputs.get("image_grid_thw")
    if sizes is not None and len(sizes) and (sizes == sizes[0]).all():
        cut = (int(sizes[0, 1]), int(sizes[0, 2]))
    candidates = [cut] if cut is not None else []
    if cut is not None and merged:
        candidates += [(cut[0] // m, cut[1] // m) for m in range(2, 9) if not cut[0] % m and not cut[1] % m]
    side = isqrt(count)
    candidates.append((side, side))
    for rows, columns in candidates:
        extra = count - rows * columns
        if 0 <= extra <= SPECIAL and rows * columns > max(1, extra):
            return rows, columns
    raise NoMap(f"its {count} tokens of a picture do not lie in a grid that is known")
