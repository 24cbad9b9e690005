"""Which map of attention points best at what a question names, and which window of occlusion: docs/report.md's tables.

    python benchmarks/maps.py embedded embedded-llava --output runs/maps.json      # about three minutes on one core

Direct is what `ressa report` draws. Rolled out means that the language model's self-attention is, too: ½ W + ½ I a
layer, multiplied (Abnar & Zuidema, ACL 2020). The models are dense, the words are the reference answers.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from ressa.anatomy import find_anatomy
from ressa.checkpoint import load
from ressa.commands.inputs import find_data
from ressa.data import Batcher
from ressa.evaluation import draw
from ressa.files import write_json
from ressa.seeing import choose, find_places, named_places, occlusion, pointing, route
from ressa.seeing.agreement import mean
from ressa.seeing.attention import Attended, capture

MODELS = ("embedded", "embedded-llava")


def rolled_out(layers: Sequence[Attended]) -> Tensor:
    """(B, T, T): the self-attentions of a stack of layers, multiplied."""
    found = torch.eye(layers[0].weights.shape[1])
    for layer in layers:
        found = 0.5 * layer.weights @ found + 0.5 * found
    return found


def routes(model: Any, batcher: Batcher, samples: Sequence[Any]) -> Iterator[tuple[str, Tensor]]:
    """Name → a map of each sample, by one forward."""
    inputs = batcher.training(samples)
    anatomy = find_anatomy(model)
    with capture(model, anatomy) as captured, torch.inference_mode():
        model(**inputs)
    rows = route._answer_rows(inputs["labels"], batcher.encoder_decoder)
    pictures = inputs["input_ids"] == batcher.text.image_token_id
    language = captured.of("language")
    crossed = [each for each in language if each.cross]
    length = inputs["input_ids"].shape[1]
    own = [each for each in language if not each.cross and each.weights.shape[1] == length]
    direct = [each.weights for each in crossed or own]
    whole = torch.stack(direct).mean(0)
    ways = {"direct, all layers": whole, "direct, last layer": direct[-1]}
    ways["language model rolled out"] = whole @ rolled_out(own) if crossed else rolled_out(own)
    for name, onto in ways.items():
        shares = torch.stack(
            [each[where].mean(0)[own] for each, where, own in zip(onto, rows, pictures, strict=True)]
        )
        brought, _ = route._connector(captured.of("connector"), None, shares, shares.shape[1])
        grid = captured.grid or (0, 0)
        yield name, brought[:, -grid[0] * grid[1] :].reshape(-1, *grid)


def pointed(maps: Sequence[Tensor], places: Sequence[Any]) -> dict[str, float | None]:
    found = [pointing(seen.numpy(), where) for seen, where in zip(maps, places, strict=True)]
    return {key: mean([each[key] for each in found]) for key in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument(
        "--windows", type=int, default=24, help="questions that parts of pictures are hidden of"
    )
    given = parser.parse_args()
    data = find_data("embedded")
    drawn = draw(data, ("vqa", "gqa"), split="test", limit=given.questions)
    asked = [each for samples in drawn.samples.values() for each in samples]
    places = find_places(data, asked)
    chosen = [replace(each, target=each.answers[0]) for each in choose(asked, places, given.questions)]
    named = [named_places(each, places) for each in chosen]
    result: dict[str, Any] = {}
    for name in given.models:
        vlm = load(name, dtype="float32")
        batcher = Batcher(vlm.processor, vlm.model.config, vlm.model.generation_config)
        found = {way: pointed(list(maps), named) for way, maps in routes(vlm.model, batcher, chosen)}
        for size in (2, 3):
            with mock.patch.object(occlusion, "WINDOW", size):
                maps = [
                    occlusion.occlusion_map(vlm.model, batcher, each)[1] for each in chosen[: given.windows]
                ]
            found[f"occlusion, {size} × {size}"] = pointed(maps, named[: given.windows])
        result[name] = found
        for way, numbers in found.items():
            print(
                f"{name}: {way}:",
                ", ".join(f"{key} {value:.2f}" for key, value in numbers.items()),
                flush=True,
            )
    write_json(given.output, {"questions": given.questions, "windows": given.windows, "models": result})


if __name__ == "__main__":
    main()
