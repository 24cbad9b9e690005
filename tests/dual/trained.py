"""A CLIP small enough to be trained in seconds, which then knows what it sees: figures of a kind, how many, where."""

import itertools
import random
from functools import cache

import torch
from dual.models import clip
from PIL import Image, ImageDraw
from torch.nn import functional as F

from ressa.data import Sample

KINDS = {"cat": "yellow", "dog": "lime", "bird": "white", "car": "black", "tree": "magenta"}
GROUNDS = {"red": (190, 30, 30), "blue": (30, 30, 190)}
COUNTS = {"one": 1, "two": 2, "three": 3}
SCENES = list(itertools.product(COUNTS, KINDS, ("left", "right"), GROUNDS))


def drawn(scene: tuple[str, str, str, str], seed: int) -> Sample:
    """One scene, its figures somewhere on their side."""
    rng = random.Random(f"{scene} {seed}")
    count, kind, side, ground = scene
    image = Image.new("RGB", (32, 32), GROUNDS[ground])
    pen = ImageDraw.Draw(image)
    for number in range(COUNTS[count]):
        x = rng.randint(0, 9) + (16 if side == "right" else 0)
        y = number * 11 + rng.randint(0, 4)
        pen.rectangle((x, y, x + 5, y + 5), fill=KINDS[kind])
    return Sample(image, "", f"{count} {kind} on the {side} in {ground}", f"{' '.join(scene)} {seed}")


def samples(first: int, copies: int) -> list[Sample]:
    """Every scene, `copies` times."""
    return [drawn(scene, seed) for seed in range(first, first + copies) for scene in SCENES]


@cache
def trained_clip(steps: int = 900):
    """(model, processor), trained from scratch by CLIP's loss."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, processor = clip()
        model.apply(model._init_weights)
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.1)
        known = samples(1000, 8)
        pixels = processor.image_processor([sample.image for sample in known], return_tensors="pt")[
            "pixel_values"
        ]
        words = processor.tokenizer([sample.target for sample in known], padding=True, return_tensors="pt")
        for _ in range(steps):
            chosen = torch.randperm(len(known))[:60]
            output = model(
                pixel_values=pixels[chosen], **{name: value[chosen] for name, value in words.items()}
            )
            same = (words["input_ids"][chosen][:, None] == words["input_ids"][chosen][None]).all(-1)
            logits = output.logits_per_image.masked_fill(same & ~torch.eye(60, dtype=torch.bool), -1e4)
            own = torch.arange(60)
            (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    return model.eval(), processor
