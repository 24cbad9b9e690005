"""A family's tiny model, with its real processor, through the commands of ressa, on ten embedded scenes."""

import io
import json
import math
from contextlib import redirect_stderr
from pathlib import Path

import torch
from transformers import AutoProcessor

from ressa.checkpoint import read_masks
from ressa.cli import main
from ressa.embedded.dataset import write_dataset
from zoo.processed import processed

SCENES = 10


def scenes(folder: Path) -> Path:
    """Ten scenes to calibrate on, ten to learn from and ten to be asked about."""
    folder.mkdir()
    write_dataset(folder, 0, dict.fromkeys(("calibration", "train", "test"), SCENES))
    return folder


def through(family: str, data: Path, work: Path) -> dict[str, float]:
    """Prune to 2:4, repair and evaluate; the scores by task. Raises AssertionError where something does not hold."""
    model, processor = processed(family)
    dense, pruned, repaired = (work / name for name in ("dense", "pruned", "repaired"))
    model.save_pretrained(dense)
    processor.save_pretrained(dense)
    few = ("--samples", SCENES)
    run("prune", dense, "-o", pruned, "--pattern", "2:4", "--calibration", data, *few)
    run("repair", pruned, "-o", repaired, "--data", data, *few, "--batch-size", 5, "--option", "held_back=4")
    run("evaluate", repaired, "--data", data, "--split", "test", "--json", work / "scores.json")
    masks = read_masks(pruned)
    assert masks
    again = read_masks(repaired)
    assert masks.keys() == again.keys()
    assert all(torch.equal(mask, again[name]) for name, mask in masks.items())
    run("inspect", repaired)  # which counts the zeros
    AutoProcessor.from_pretrained(repaired)
    scores = {
        task: found["score"]
        for task, found in json.loads((work / "scores.json").read_text())["tasks"].items()
    }
    assert scores
    assert all(math.isfinite(score) for score in scores.values())
    return scores


def run(*arguments: object) -> None:
    """One command line, in this process."""
    with redirect_stderr(io.StringIO()) as told:
        status = main([str(argument) for argument in arguments])
    sentence = next((line for line in told.getvalue().splitlines() if line.startswith("ressa: ")), "")
    assert status == 0, f"ressa {arguments[0]} ended with {status}: {sentence}"
