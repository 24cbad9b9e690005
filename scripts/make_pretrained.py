"""Make a VLM of real pretrained towers: DINOv2-small → projector → SmolLM2-135M-Instruct, taught the embedded scenes.

    pip install -e ".[pretrained]"                                    # what reads GGUF and ONNX
    python scripts/make_pretrained.py --output runs/pretrained --work runs/pretrained-work
    python scripts/make_pretrained.py --smoke --output /tmp/out --work /tmp/work          # CPU, minutes

A LLaVA of 157 M parameters at 224 px (256 image tokens), in SmolLM2's own chat format. First the projector alone, then
everything, as LLaVA is trained; one image and all texts about it share a sequence, each text seeing only the image and
itself. A killed run goes on where it was. The model is not shipped: name its folder wherever a model is asked for
(`ressa prune runs/pretrained …`).
"""

import argparse
import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pretrained_towers import convert
from tokenizers import AddedToken
from torch import Tensor, nn
from train_embedded import Recipe, Run, cross_entropy, draw, joined, pick, to_device
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPImageProcessor,
    Dinov2Model,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from ressa.anatomy import find_anatomy
from ressa.data.batcher import Batcher
from ressa.data.prompts import CAPTION
from ressa.repairing.compiling import compiled_blocks

SIZE, PATCH = 224, 14  # px
IMAGE = "<image>"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as DINOv2 was trained

CHAT = (  # SmolLM2's turns without the system turn it writes into every chat, and with pictures
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class PretrainedRecipe(Recipe):
    """What differs from training from scratch."""

    scenes: int = 60_000
    held: int = 512
    projector_steps: int = 250
    projector_lr: float = 1e-3
    steps: int = 1_200
    batch: int = 64
    lr: float = 1e-4
    tower_lr: float = 1e-4
    warmup: int = 50
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.0
    save_every: float = 120  # its state is of 2 GB


SMOKE = PretrainedRecipe(scenes=48, held=16, projector_steps=2, steps=2, batch=4, warmup=1)


def make_processor(vision_folder: Path, language_folder: Path) -> tuple[Any, LlavaConfig]:
    """The processor, and the config of the model it serves."""
    tokenizer = AutoTokenizer.from_pretrained(language_folder)
    tokenizer.add_tokens([AddedToken(IMAGE, special=True, normalized=False)], special_tokens=True)
    language = AutoConfig.from_pretrained(language_folder)
    language.vocab_size = math.ceil(len(tokenizer) / 64) * 64
    config = LlavaConfig(
        vision_config=AutoConfig.from_pretrained(vision_folder),
        text_config=language,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=(SIZE // PATCH) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"height": SIZE, "width": SIZE},
            do_center_crop=False,
            image_mean=list(MEAN),
            image_std=list(STD),
        ),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE,
        chat_template=CHAT,
    )
    return processor, config


def assemble(vision_folder: Path, language_folder: Path) -> tuple[Any, Any]:
    """The LLaVA, in fp32 with an untrained projector, and its processor."""
    processor, config = make_processor(vision_folder, language_folder)
    language = AutoModelForCausalLM.from_pretrained(language_folder, dtype=torch.float32)
    language.resize_token_embeddings(config.text_config.vocab_size)
    vision = Dinov2Model.from_pretrained(vision_folder, dtype=torch.float32)
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(vision.state_dict())
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.tie_weights()
    model.generation_config = language.generation_config
    return model, processor


class ChatTokens:
    """Prompts and targets as the product's own `Batcher` makes them, taken apart around the image."""

    slots = (56, 16, 96)

    def __init__(self, vision_folder: Path, language_folder: Path) -> None:
        processor, config = make_processor(vision_folder, language_folder)
        self.text = Batcher(processor, config).text
        self.tokenizer = processor.tokenizer
        before, _, _ = self._asked("").partition(IMAGE)
        self.lead: list[int] = self._ids([before])[0]
        """What stands before the image of every prompt."""

    def prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        """What stands behind the image."""
        return self._ids([self._asked(prompt).partition(IMAGE)[2] for prompt in prompts])

    def targets(self, prompts: Sequence[str], targets: Sequence[str]) -> list[list[int]]:
        """Answers, end of turn included."""
        return self.text.target_ids([self._asked(prompt) for prompt in prompts], list(targets))

    def _asked(self, prompt: str) -> str:
        return self.text.segments([prompt])[0]

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"]


class Trainer(nn.Module):
    """Loss of questions and captions; logits are made only where an answer stands."""

    def __init__(self, model: nn.Module, recipe: Recipe, lead: list[int], caption_prompt: list[int]) -> None:
        super().__init__()
        self.model, self.recipe = model, recipe
        self.register_buffer("lead", torch.tensor(lead), persistent=False)
        self.register_buffer("caption_prompt", torch.tensor(caption_prompt), persistent=False)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def forward(
        self, pixels: Tensor, prompts: Tensor, answers: Tensor, told: Tensor
    ) -> tuple[Tensor, Tensor]:
        """pixels uint8 (B, 3, H, W); prompts (B, Q, P); answers (B, Q, A); told (B, C). Returns the loss and which
        questions were answered right, bool (B, Q)."""
        model, embed = self.model, self.model.get_input_embeddings()
        features = model.get_image_features(self.normalise(pixels)).pooler_output
        features = torch.stack(list(features)) if isinstance(features, list | tuple) else features
        lead = embed(self.lead).expand(len(pixels), -1, -1)
        asked, asked_targets = trimmed(*joined(prompts, answers))  # (B, Q, at most P + A)
        told_behind = joined(self.caption_prompt.expand(len(pixels), 1, -1), told[:, None])
        spoken, spoken_targets = trimmed(*told_behind)
        ids = torch.cat([asked.flatten(1), spoken.flatten(1)], 1)
        shared = lead.shape[1] + features.shape[1]
        slots = [shared, *[asked.shape[2]] * asked.shape[1], spoken.shape[2]]
        segment = torch.cat([torch.full((n,), i, device=ids.device) for i, n in enumerate(slots)])
        position = torch.cat(
            [torch.arange(n, device=ids.device) + (shared if i else 0) for i, n in enumerate(slots)]
        )
        order = torch.arange(len(segment), device=ids.device)
        visible = (order[:, None] >= order) & ((segment == 0) | (segment[:, None] == segment))
        hidden = model.model.language_model(
            inputs_embeds=torch.cat([lead, features.to(lead.dtype), embed(ids)], 1),
            attention_mask=visible[None, None].expand(len(ids), 1, -1, -1),
            position_ids=position[None],
            use_cache=False,
        ).last_hidden_state[:, shared:]
        parts = hidden.split([asked.flatten(1).shape[1], spoken.shape[2]], 1)
        loss, right = self._loss(parts[0].unflatten(1, asked.shape[1:]), asked_targets)
        told_loss, _ = self._loss(parts[1].unsqueeze(1), spoken_targets)
        return loss + self.recipe.caption_weight * told_loss, right

    def _loss(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        there = targets >= 0
        logits = self.model.lm_head(hidden[there])
        hit = torch.ones_like(there)
        hit[there] = logits.argmax(-1) == targets[there]
        return cross_entropy(logits, targets[there]), hit.all(-1)

    def normalise(self, pixels: Tensor) -> Tensor:
        """What the processor does: bicubic to 224 px, rounded to whole levels, then ImageNet's mean and deviation."""
        large = F.interpolate(pixels.float(), (SIZE, SIZE), mode="bicubic", antialias=True)
        return (large.round().clamp(0, 255) / 255 - self.mean) / self.std


def trimmed(ids: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Both (B, Q, L) without what is padding in every row: slots are of the longest text, and most are half as long."""
    length = int((ids != 0).any(0).any(0).sum())
    return ids[..., :length], targets[..., :length]


class PretrainedRun(Run):
    """Two stages: the projector, then the whole."""

    recipe: PretrainedRecipe

    def build(self, name: str) -> tuple[Any, Any]:
        return assemble(*convert(self.work / "towers", SIZE))

    def train(self, train: dict[str, Tensor], held: dict[str, Tensor], tokens: ChatTokens) -> bool:
        recipe = self.recipe
        trainer = Trainer(self.model, recipe, tokens.lead, tokens.prompts([CAPTION])[0]).to(self.device)

        def batch_loss(draws: torch.Generator) -> tuple[Tensor, Tensor]:
            rows = torch.randint(len(train["pixels"]), (recipe.batch,), generator=draws, device=self.device)
            texts, _ = pick(train, rows, recipe.asked, draws)
            with self.autocast():
                return trainer(train["pixels"][rows], *texts)

        @torch.no_grad()
        def report(step: int) -> None:
            rows = torch.arange(len(held["pixels"]), device=self.device)
            self.note_scores(step, held, trainer, rows.split(recipe.batch))

        projector = list(self.model.model.multi_modal_projector.parameters())
        self.model.requires_grad_(False)
        self.model.model.multi_modal_projector.requires_grad_(True)
        groups = [{"params": projector, "lr": recipe.projector_lr}]
        with self._blocks_compiled():
            if not self.optimise("projector", trainer, groups, recipe.projector_steps, batch_loss, None):
                return False
        self.model.requires_grad_(True)
        groups = [{"params": [p for p in self.model.parameters() if p.requires_grad], "lr": recipe.lr}]
        with self._blocks_compiled():
            return self.optimise("vlm", trainer, groups, recipe.steps, batch_loss, report)

    def _blocks_compiled(self) -> AbstractContextManager[None]:
        """For one stage: what is compiled for weights that do not learn is not for those that do."""
        names = [block.name for block in find_anatomy(self.model).blocks()]
        return compiled_blocks([self.model], names) if self.compiled else nullcontext()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for towers, scenes and resumable state"
    )
    parser.add_argument("--smoke", action="store_true", help="a few tiny steps, to see that everything runs")
    parser.add_argument(
        "--stop-after", type=float, default=math.inf, help="seconds after which to save and leave"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="the blocks: on a GPU two thirds of the time")
    for field in ("seed", "scenes", "steps", "projector_steps", "batch"):
        parser.add_argument(f"--{field.replace('_', '-')}", type=int)
    arguments = parser.parse_args()
    chosen = {f: getattr(arguments, f) for f in ("seed", "scenes", "steps", "projector_steps", "batch")}
    recipe = replace(
        SMOKE if arguments.smoke else PretrainedRecipe(), **{f: v for f, v in chosen.items() if v is not None}
    )
    device = torch.device(arguments.device)
    torch.set_float32_matmul_precision("high")
    stop_at = time.time() + arguments.stop_after
    run = PretrainedRun("pretrained", recipe, arguments.work, device, stop_at, None)
    run.compiled = arguments.compile
    tokens = partial(ChatTokens, *convert(arguments.work / "towers", SIZE))
    data = {
        split: to_device(
            draw(arguments.work / f"{split}-{recipe.seed}-{count}", split, recipe.seed, count, tokens),
            device,
        )
        for split, count in (("train", recipe.scenes), ("val", recipe.held))
    }
    run.note(stage="data", scenes=recipe.scenes)
    if run.train(data["train"], data["val"], tokens()):
        run.export(arguments.output)
        run.note(stage="done", output=str(arguments.output))
    else:
        print("out of time: run the same command again to go on")


if __name__ == "__main__":
    main()
