"""Train a small CLIP on the embedded scenes, on a CPU, to prune and repair it (benchmarks/dual_encoders.py).

    python scripts/train_dual_encoder.py --output runs/clip            # minutes on one core

Its vision tower is that of `embedded-llava`, whose patches know what they show. All but the last block of it stays
as it is; that block, which now has to gather the picture in its first token, the text tower and the projections are
trained from captions by CLIP's loss. Model and processor are plain Hugging Face files.
"""

import argparse
import random
import time
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPProcessor

from ressa.checkpoint import load
from ressa.embedded.architectures import END, build_tokenizer
from ressa.embedded.captions import captions
from ressa.embedded.scenes import render, sample_scene
from ressa.files import fresh_directory

WIDTH, LENGTH = 192, 40  # of the text tower: channels, positions


def untrained(layers: int) -> tuple[CLIPModel, CLIPProcessor]:
    """A CLIP around the vision tower of `embedded-llava`."""
    llava = load("embedded-llava", dtype="float32")
    tokenizer = build_tokenizer()
    tokenizer.model_max_length = LENGTH
    end = tokenizer.convert_tokens_to_ids(END)
    tokenizer._tokenizer.post_processor = _ends_with(END, end)
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 3 * WIDTH,
        "num_hidden_layers": layers,
        "num_attention_heads": 6,
        "max_position_embeddings": LENGTH,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": end,
        "bos_token_id": end,
    }
    vision = llava.model.config.vision_config.to_dict()
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))
    model.vision_model.load_state_dict(llava.model.model.vision_tower.state_dict())
    return model, CLIPProcessor(llava.processor.image_processor, tokenizer)


def _ends_with(token: str, number: int):
    from tokenizers.processors import TemplateProcessing

    return TemplateProcessing(
        single=f"$A {token}", pair=f"$A {token} $B {token}", special_tokens=[(token, number)]
    )


@torch.no_grad()
def before_the_last_block(model: CLIPModel, processor: CLIPProcessor, scenes: int, seed: int) -> Tensor:
    """What reaches the last vision block of each training scene: (scenes, tokens, width), half precision."""
    tower, found = model.vision_model, []
    for start in range(0, scenes, 50):
        drawn = [
            Image.fromarray(render(sample_scene("train", index, seed))) for index in range(start, start + 50)
        ]
        pixels = processor.image_processor(drawn, return_tensors="pt")["pixel_values"]
        states = tower(pixels, output_hidden_states=True).hidden_states[-2]
        found.append(states.half())
        print(f"{start + 50:,} of {scenes:,} scenes seen", end="\r", flush=True)
    return torch.cat(found)


def train(
    model: CLIPModel,
    processor: CLIPProcessor,
    states: Tensor,
    *,
    steps: int,
    batch: int,
    rate: float,
    seed: int,
) -> None:
    tower = model.vision_model
    model.requires_grad_(False)
    trained = [tower.encoder.layers[-1], tower.post_layernorm, model.text_model]
    trained += [model.visual_projection, model.text_projection]
    for part in trained:
        part.requires_grad_(True)
    model.logit_scale.requires_grad_(True)
    parameters = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    texts = [captions(sample_scene("train", index, seed)) for index in range(len(states))]
    rng, begun = random.Random(seed), time.time()
    model.train()
    for step in range(steps):
        chosen = rng.sample(range(len(states)), batch)
        words = processor.tokenizer(
            [rng.choice(texts[index]) for index in chosen], padding=True, return_tensors="pt"
        )
        hidden = tower.encoder.layers[-1](states[chosen].float(), attention_mask=None)
        hidden = hidden if isinstance(hidden, Tensor) else hidden[0]
        seen = F.normalize(model.visual_projection(tower.post_layernorm(hidden[:, 0])), dim=-1)
        read = F.normalize(model.get_text_features(**words).pooler_output, dim=-1)
        logits = model.logit_scale.exp() * seen @ read.T
        own = torch.arange(batch)
        loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        model.logit_scale.data.clamp_(max=4.6052)
        if step % 20 == 19:
            print(f"step {step + 1}, loss {loss.item():.3f}, {time.time() - begun:.0f} s", flush=True)
    model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--layers", type=int, default=3, help="blocks of the text tower")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    model, processor = untrained(given.layers)
    model.eval()
    states = before_the_last_block(model, processor, given.scenes, given.seed)
    train(model, processor, states, steps=given.steps, batch=given.batch, rate=given.rate, seed=given.seed)
    with fresh_directory(given.output) as work:
        model.save_pretrained(work)
        processor.save_pretrained(work)


if __name__ == "__main__":
    main()
