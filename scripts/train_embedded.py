"""Train an embedded VLM from scratch: scenes → vision tower (patch naming) → whole VLM → checkpoint folder.

    python scripts/train_embedded.py embedded --output src/ressa/embedded/models/embedded --work /tmp/embedded
    python scripts/train_embedded.py embedded --smoke --output /tmp/out --work /tmp/work      # CPU, a minute

Stage 1 teaches the vision tower to name what each patch shows; without it the same time gives a far weaker model.
Stage 2 trains the whole VLM on questions and captions; each image is encoded once for all texts that ask about it.
Everything is drawn from (seed, step), and the state is saved every so often: a killed run goes on where it was.
"""

import argparse
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ressa.data.prompts import CAPTION, QUESTION
from ressa.embedded.architectures import END, PATCH, build, build_tokenizer
from ressa.embedded.captions import captions
from ressa.embedded.catalog import things
from ressa.embedded.questions import KINDS, questions
from ressa.embedded.scenes import CANVAS, COLOURS, TEXTURES, patch_labels, render, sample_scene
from ressa.files import fresh_directory, write_json
from ressa.provenance import versions

IGNORED = -100
ASKED, TOLD = 15, 5  # questions and captions kept a scene


@dataclass(frozen=True)
class Recipe:
    """Everything that shapes a run."""

    seed: int = 0
    scenes: int = 400_000  # of the `train` split
    held: int = 2_000  # scenes of `val` for the curve
    vision_steps: int = 4_500
    vision_batch: int = 1024
    vision_lr: float = 1e-3
    steps: int = 16_000
    batch: int = 256  # images a step
    asked: int = 4  # questions an image and step; one caption comes with them
    lr: float = 1e-3  # connector and language model
    tower_lr: float = 3e-4  # vision tower, in stage 2
    warmup: int = 500
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    caption_weight: float = 0.5
    save_every: float = 60  # seconds


SMOKE = Recipe(scenes=96, held=32, vision_steps=3, vision_batch=16, steps=4, batch=8, warmup=2)


# Data: every scene as pixels, patch names and token ids, in memory-mapped arrays


class Tokens(Protocol):
    """What turns texts into ids; 0 is none of them, for it fills the slots."""

    slots: tuple[int, int, int]
    """Of a prompt, an answer and a caption, end token included."""

    def prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        """Prompts as the language model reads them."""

    def targets(self, prompts: Sequence[str], targets: Sequence[str]) -> list[list[int]]:
        """Answers behind their prompts, end token included."""


class WordTokens:
    """Tokens of the embedded models: words."""

    slots = (26, 6, 44)

    def __init__(self) -> None:
        self.tokenizer = build_tokenizer()
        self.end = self.tokenizer.convert_tokens_to_ids(END)

    def prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        return self.tokenizer(list(prompts), add_special_tokens=False)["input_ids"]

    def targets(self, prompts: Sequence[str], targets: Sequence[str]) -> list[list[int]]:
        return [[*ids, self.end] for ids in self.prompts(targets)]


def _describe(job: tuple[Path, str, int, int, int], tokens: Callable[[], Tokens]) -> None:
    """Draw scenes `first`..`last` of a split into the arrays of a folder."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # every core has its own worker already
    folder, split, seed, first, last = job
    arrays = {path.stem: np.load(path, mmap_mode="r+") for path in folder.glob("*.npy")}
    made = tokens()
    kinds = list(KINDS)
    for index in range(first, last):
        scene = sample_scene(split, index, seed)
        arrays["pixels"][index] = render(scene).transpose(2, 0, 1)
        arrays["patches"][index] = patch_labels(scene, PATCH).reshape(-1)
        arrays["backdrop"][index] = (
            list(COLOURS).index(scene.colour) * len(TEXTURES)
            + TEXTURES.index(scene.texture)
            + len(things())
            + 1
        )
        asked = questions(scene)[:ASKED]
        told = captions(scene)
        prompts = [QUESTION.format(q.text) for q in asked]
        prompt_ids = made.prompts(prompts)
        answer_ids = made.targets(prompts, [q.answer for q in asked])
        caption_ids = made.targets([CAPTION] * len(told), told)
        arrays["asked"][index] = len(asked)
        for number, question in enumerate(asked):
            _fill(arrays["prompts"][index, number], prompt_ids[number])
            _fill(arrays["answers"][index, number], answer_ids[number])
            arrays["kinds"][index, number] = kinds.index(question.kind)
        for number, ids in enumerate(caption_ids):
            _fill(arrays["captions"][index, number], ids)


def _fill(row: np.ndarray, ids: list[int]) -> None:
    row[: len(ids)] = ids  # too long a text is an error here, not silently cut


def draw(
    folder: Path, split: str, seed: int, count: int, tokens: Callable[[], Tokens] = WordTokens
) -> dict[str, np.ndarray]:
    """All scenes of a split as arrays, drawn on every core; made once, then read back."""
    if not folder.is_dir():
        prompt, answer, sentence = tokens().slots
        shapes = {
            "pixels": ((3, CANVAS, CANVAS), np.uint8),
            "patches": (((CANVAS // PATCH) ** 2,), np.int16),
            "backdrop": ((), np.int16),
            "asked": ((), np.int16),
            "kinds": ((ASKED,), np.int8),
            "prompts": ((ASKED, prompt), np.uint16),
            "answers": ((ASKED, answer), np.uint16),
            "captions": ((TOLD, sentence), np.uint16),
        }
        with fresh_directory(folder) as work:
            for name, (shape, dtype) in shapes.items():
                np.lib.format.open_memmap(work / f"{name}.npy", mode="w+", dtype=dtype, shape=(count, *shape))
            chunk = min(500, -(-count // 4))
            jobs = [(work, split, seed, first, min(first + chunk, count)) for first in range(0, count, chunk)]
            with ProcessPoolExecutor(min(16, os.cpu_count() or 1), mp_context=get_context("spawn")) as pool:
                list(pool.map(partial(_describe, tokens=tokens), jobs))
    return {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}


def to_device(arrays: dict[str, np.ndarray], device: torch.device) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.array(array)).to(device) for name, array in arrays.items()}


def pick(
    data: dict[str, Tensor], rows: Tensor, asked: int, draws: torch.Generator
) -> tuple[list[Tensor], Tensor]:
    """`asked` questions and a caption for each scene: [prompts, answers, captions] and the questions' kinds."""
    chance = torch.rand((len(rows), ASKED), generator=draws, device=rows.device)
    there = torch.arange(ASKED, device=rows.device) < data["asked"][rows, None]
    which = torch.where(there, chance, -1.0).topk(asked, 1).indices
    told = torch.randint(TOLD, (len(rows),), generator=draws, device=rows.device)
    across = rows[:, None]
    texts = [
        token_ids(data["prompts"], across, which),
        token_ids(data["answers"], across, which),
        token_ids(data["captions"], rows, told),
    ]
    return texts, data["kinds"][across, which].long()


def token_ids(texts: Tensor, *at: Tensor) -> Tensor:
    """int64 of a uint16 tensor at these indices; CUDA indexes uint16 only as what it is not."""
    return texts.view(torch.int16)[at].long() & 0xFFFF


# Stage 1: the vision tower names what each patch shows


class PatchNamer(nn.Module):
    """Linear readings of the vision tower's output: patch tokens → thing, first token → backdrop.

    For a Q-Former, to which the patches have no order, patch tokens name their place too: that keeps it in them.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.head = nn.Linear(192, len(things()) + 1 + len(COLOURS) * len(TEXTURES))
        self.place = nn.Linear(192, (CANVAS // PATCH) ** 2) if hasattr(model, "qformer") else None

    def forward(self, pixels: Tensor, patches: Tensor, backdrop: Tensor) -> tuple[Tensor, Tensor]:
        seen = see(self.model, pixels)
        logits = self.head(seen).float()
        labels = torch.cat([backdrop[:, None], patches], 1)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        if self.place is not None:
            places = self.place(seen[:, 1:]).float()
            truth = torch.arange(places.shape[1], device=places.device).expand(len(places), -1)
            loss = loss + F.cross_entropy(places.flatten(0, 1), truth.flatten())
        thing = patches > 0
        hit = (logits[:, 1:].argmax(-1) == patches) & thing
        return loss, hit.sum() / thing.sum()


def normalise(pixels: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) → float in −1..1, as the processor does with mean and deviation 0.5."""
    return pixels.float() / 127.5 - 1.0


def see(model: nn.Module, pixels: Tensor) -> Tensor:
    """What the connector gets of the images: (B, 1 + patches, 192)."""
    if hasattr(model, "qformer"):
        return model.vision_model(normalise(pixels)).last_hidden_state
    return model.model.vision_tower(normalise(pixels), output_hidden_states=True).hidden_states[-1]


# Stage 2: the whole VLM. Both modules return the loss and which questions were answered right


class InstructBlipTrainer(nn.Module):
    """Loss of questions and captions; the Q-Former reads each prompt, the vision tower each image only once."""

    def __init__(self, model: nn.Module, recipe: Recipe, caption_prompt: list[int]) -> None:
        super().__init__()
        self.model, self.recipe = model, recipe
        self.register_buffer("caption_prompt", torch.tensor(caption_prompt), persistent=False)

    def forward(
        self, pixels: Tensor, prompts: Tensor, answers: Tensor, told: Tensor
    ) -> tuple[Tensor, Tensor]:
        """pixels (B, 3, H, W); prompts (B, Q, P); answers (B, Q, A); told (B, C)."""
        seen = see(self.model, pixels)
        each = prompts.shape[1]
        logits = self._read(seen.repeat_interleave(each, 0), prompts.flatten(0, 1), answers.flatten(0, 1))
        targets = _targets(answers.flatten(0, 1))
        caption_prompts = self.caption_prompt.expand(len(pixels), -1)
        caption_logits = self._read(seen, caption_prompts, told)
        loss = cross_entropy(logits, targets)
        loss = loss + self.recipe.caption_weight * cross_entropy(caption_logits, _targets(told))
        return loss, right_answers(logits, targets).view(answers.shape[:2])

    def _read(self, seen: Tensor, prompts: Tensor, answers: Tensor) -> Tensor:
        model = self.model
        real = (prompts != 0).long()
        queries = model.query_tokens.expand(len(seen), -1, -1)
        ones = real.new_ones(queries.shape[:2])
        mixed = model.qformer(
            input_ids=prompts,
            attention_mask=torch.cat([ones, real], 1),
            query_embeds=queries,
            encoder_hidden_states=seen,
            encoder_attention_mask=real.new_ones(seen.shape[:2]),
        )
        prefix = model.language_projection(mixed.last_hidden_state[:, : queries.shape[1]])
        embedded = torch.cat([prefix, model.get_input_embeddings()(prompts).to(prefix.dtype)], 1)
        return model.language_model(
            inputs_embeds=embedded, attention_mask=torch.cat([ones, real], 1), labels=_targets(answers)
        ).logits


class LlavaTrainer(nn.Module):
    """Loss of questions and captions; one image and all its texts share a sequence, each text seeing only itself."""

    def __init__(self, model: nn.Module, recipe: Recipe, caption_prompt: list[int]) -> None:
        super().__init__()
        self.model, self.recipe = model, recipe
        self.register_buffer("caption_prompt", torch.tensor(caption_prompt), persistent=False)

    def forward(
        self, pixels: Tensor, prompts: Tensor, answers: Tensor, told: Tensor
    ) -> tuple[Tensor, Tensor]:
        """pixels (B, 3, H, W); prompts (B, Q, P); answers (B, Q, A); told (B, C)."""
        model = self.model
        features = model.model.multi_modal_projector(see(model, pixels)[:, 1:])
        asked, asked_targets = joined(prompts, answers)  # (B, Q, P + A)
        lead = self.caption_prompt.expand(len(pixels), 1, -1)
        spoken, spoken_targets = joined(lead, told[:, None])  # (B, 1, P' + C)
        ids = torch.cat([asked.flatten(1), spoken.flatten(1)], 1)
        slots = [features.shape[1], *[asked.shape[2]] * asked.shape[1], spoken.shape[2]]
        segment = torch.cat([torch.full((n,), i, device=ids.device) for i, n in enumerate(slots)])
        position = torch.cat(
            [torch.arange(n, device=ids.device) + (slots[0] if i else 0) for i, n in enumerate(slots)]
        )
        order = torch.arange(len(segment), device=ids.device)
        visible = (order[:, None] >= order) & ((segment == 0) | (segment[:, None] == segment))
        embedded = torch.cat([features, model.get_input_embeddings()(ids).to(features.dtype)], 1)
        hidden = model.model.language_model(
            inputs_embeds=embedded,
            attention_mask=visible[None, None].expand(len(ids), 1, -1, -1),
            position_ids=position[None],
            use_cache=False,
        ).last_hidden_state[:, slots[0] :]
        logits = model.lm_head(hidden)
        asked_logits, spoken_logits = logits.split([asked.flatten(1).shape[1], spoken.shape[2]], 1)
        asked_logits = asked_logits.unflatten(1, asked.shape[1:])
        loss = cross_entropy(asked_logits, asked_targets)
        loss = loss + self.recipe.caption_weight * cross_entropy(spoken_logits, spoken_targets[:, 0])
        return loss, right_answers(asked_logits, asked_targets)


def joined(prompts: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """Prompt and answer without a gap, padded behind: ids (B, Q, P + A) and what each position is to predict next."""
    ids = torch.cat([prompts, answers], -1)
    is_answer = torch.cat([torch.zeros_like(prompts), torch.ones_like(answers)], -1).bool() & (ids != 0)
    order = torch.argsort((ids == 0).to(torch.uint8), dim=-1, stable=True)
    ids, is_answer = ids.gather(-1, order), is_answer.gather(-1, order)
    targets = torch.where(is_answer, ids, IGNORED)
    return ids, F.pad(targets[..., 1:], (0, 1), value=IGNORED)


def _targets(answers: Tensor) -> Tensor:
    return torch.where(answers != 0, answers, IGNORED)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.float().flatten(0, -2), targets.flatten(), ignore_index=IGNORED)


def right_answers(logits: Tensor, targets: Tensor) -> Tensor:
    """Whether every token of an answer is the most likely one (teacher-forced)."""
    return ((logits.argmax(-1) == targets) | (targets == IGNORED)).all(-1)


TRAINERS = {"embedded": InstructBlipTrainer, "embedded-llava": LlavaTrainer}


def start_t5(model: nn.Module) -> None:
    """Small weights and position biases that already differ, in place of T5's own start.

    From T5's (deviation 1 in the embeddings, nearly none in the biases) it takes a question for a bag of words:
    "is A larger than B" stays at chance for thousands of steps. From this one it is answered within hundreds.
    """
    for name, weight in model.named_parameters():
        if "relative_attention_bias" in name:
            nn.init.normal_(weight, std=1.0)
        elif weight.dim() == 2:
            nn.init.normal_(weight, std=0.02)


# The loop that both stages share


class Run:
    """One training run: model, optimiser state on disk, a log line every so often."""

    def __init__(
        self,
        name: str,
        recipe: Recipe,
        work: Path,
        device: torch.device,
        stop_at: float,
        finish_at: float | None,
    ) -> None:
        self.name, self.recipe, self.work, self.device = name, recipe, work, device
        self.stop_at, self.finish_at, self.compiled = stop_at, finish_at, device.type == "cuda"
        self.started = time.time()
        work.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(recipe.seed)
        self.model, self.processor = self.build(name)
        self.model.to(device).train()
        self.log = work / "log.jsonl"

    def build(self, name: str) -> tuple[Any, Any]:
        """The model before training, and its processor."""
        model, processor = build(name)
        if hasattr(model, "qformer"):
            start_t5(model.language_model)
        return model, processor

    def note(self, **values) -> None:
        line = json.dumps({"time": round(time.time() - self.started, 1), **values})
        print(line, flush=True)
        with self.log.open("a") as log:
            log.write(line + "\n")

    def optimise(
        self, stage: str, module: nn.Module, groups: list[dict], steps: int, batch_loss, report
    ) -> bool:
        """Run or resume one stage; False when the time ran out before its end."""
        recipe, state_file = self.recipe, self.work / f"{stage}.pt"
        optimiser = torch.optim.AdamW(
            groups, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=self.device.type == "cuda"
        )
        first, measured = 0, None
        if state_file.exists():
            state = torch.load(state_file, map_location=self.device, weights_only=True)
            module.load_state_dict(state["module"])
            optimiser.load_state_dict(state["optimiser"])
            first, steps = state["step"], state["steps"]
            if stage == "vlm":
                self.recipe = replace(recipe, steps=steps)
        highest = [group["lr"] for group in groups]
        parameters = [p for group in groups for p in group["params"]]
        warmup, saved, seen_at = min(recipe.warmup, steps // 5), time.time(), time.time()
        step = first - 1
        while (step := step + 1) < steps:
            if (
                stage == "vlm" and self.finish_at and first == 0 and step in (50, 250)
            ):  # compiled and warmed up
                if measured is not None:
                    steps = step + round((self.finish_at - time.time()) * 200 / (time.time() - measured))
                    self.recipe = recipe = replace(recipe, steps=steps)
                    self.note(stage=stage, steps=steps)
                measured = time.time()
            rate = min((step + 1) / max(warmup, 1), 0.5 * (1 + math.cos(math.pi * step / steps)) + 0.005)
            for group, top in zip(optimiser.param_groups, highest, strict=True):
                group["lr"] = top * rate
            draws = torch.Generator(self.device).manual_seed(recipe.seed * 1_000_003 + step)
            loss, score = batch_loss(draws)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(parameters, recipe.clip)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            done = step + 1
            if done % max(1, min(250, steps // 4)) == 0 or done == steps:
                speed = max(1, min(250, steps // 4)) / (time.time() - seen_at)
                self.note(
                    stage=stage, step=done, loss=round(loss.item(), 4), score=round(score.float().mean().item(), 4),
                    norm=round(norm.item(), 2), steps_per_second=round(speed, 2),
                )  # fmt: skip
                seen_at = time.time()
            if report is not None and (done % 2000 == 0 or done == steps):
                report(done)
                seen_at = time.time()
            out_of_time = time.time() > self.stop_at
            if done == steps or out_of_time or time.time() - saved > recipe.save_every:
                half = state_file.with_suffix(".tmp")
                state = {"module": module.state_dict(), "optimiser": optimiser.state_dict()}
                torch.save({**state, "step": done, "steps": steps}, half)
                half.replace(state_file)
                saved = time.time()
            if out_of_time and done < steps:
                return False
        return True

    @property
    def tower(self) -> nn.Module:
        """The vision tower."""
        return self.model.vision_model if hasattr(self.model, "qformer") else self.model.model.vision_tower

    def vision_stage(self, train: dict[str, Tensor]) -> bool:
        recipe = self.recipe
        namer = PatchNamer(self.model).to(self.device)
        forward = self.compile(namer)
        readings = [p for name, p in namer.named_parameters() if name.startswith(("head.", "place."))]
        groups = [{"params": [*self.tower.parameters(), *readings], "lr": recipe.vision_lr}]

        def batch_loss(draws: torch.Generator) -> tuple[Tensor, Tensor]:
            rows = torch.randint(
                len(train["pixels"]), (recipe.vision_batch,), generator=draws, device=self.device
            )
            with self.autocast():
                return forward(
                    train["pixels"][rows], train["patches"][rows].long() + 1, train["backdrop"][rows].long()
                )

        return self.optimise("vision", namer, groups, recipe.vision_steps, batch_loss, None)

    def vlm_stage(self, train: dict[str, Tensor], held: dict[str, Tensor]) -> bool:
        recipe = self.recipe
        prompt = self.processor.tokenizer(CAPTION, add_special_tokens=False)["input_ids"]
        trainer = TRAINERS[self.name](self.model, recipe, prompt).to(self.device)
        forward = self.compile(trainer)
        slow = {id(p) for p in self.tower.parameters()}
        groups = [
            {"params": [p for p in self.model.parameters() if id(p) not in slow], "lr": recipe.lr},
            {"params": [p for p in self.model.parameters() if id(p) in slow], "lr": recipe.tower_lr},
        ]

        def batch_loss(draws: torch.Generator) -> tuple[Tensor, Tensor]:
            rows = torch.randint(len(train["pixels"]), (recipe.batch,), generator=draws, device=self.device)
            texts, _ = pick(train, rows, recipe.asked, draws)
            with self.autocast():
                return forward(train["pixels"][rows], *texts)

        def report(step: int) -> None:  # with gradients and whole batches, or it would be compiled once more
            size = min(recipe.batch, len(held["pixels"]))
            whole = len(held["pixels"]) // size * size
            self.note_scores(step, held, forward, torch.arange(whole, device=self.device).split(size))

        return self.optimise("vlm", trainer, groups, recipe.steps, batch_loss, report)

    def note_scores(
        self, step: int, held: dict[str, Tensor], forward: Callable[..., Any], batches: Sequence[Tensor]
    ) -> None:
        """How many questions about held-out scenes are answered right, by kind. batches: rows of `held`."""
        right = torch.zeros(len(KINDS), device=self.device)
        total = torch.zeros(len(KINDS), device=self.device)
        draws = torch.Generator(self.device).manual_seed(self.recipe.seed)
        for rows in batches:
            texts, kinds = pick(held, rows, self.recipe.asked, draws)
            with self.autocast():
                _, hit = forward(held["pixels"][rows], *texts)
            right.index_add_(0, kinds.flatten(), hit.flatten().float())
            total.index_add_(0, kinds.flatten(), torch.ones_like(hit.flatten(), dtype=torch.float))
        scores = {k: round(100 * (right[i] / total[i].clamp(min=1)).item(), 1) for i, k in enumerate(KINDS)}
        self.note(
            stage="val", step=step, kinds=scores, all=round(100 * (right.sum() / total.sum()).item(), 2)
        )

    def compile(self, module: nn.Module):
        """The module, compiled on a GPU. Shapes never change, and inductor's tiling analysis fails on T5 (2.11)."""
        if not self.compiled:
            return module
        import torch._inductor.config

        torch._inductor.config.triton.coalesce_tiling_analysis = False
        return torch.compile(module, dynamic=False)

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def export(self, output: Path) -> None:
        """The checkpoint folder: bf16 weights, processor, the log and the recipe."""
        with fresh_directory(output) as folder:
            self.model.to(torch.bfloat16).save_pretrained(folder)
            self.processor.save_pretrained(folder)
            shutil.copy(self.log, folder / "training_log.jsonl")
            write_json(folder / "training.json", {"recipe": asdict(self.recipe), "versions": versions()})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=TRAINERS)
    parser.add_argument("--output", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument("--work", type=Path, required=True, help="folder for scenes and resumable state")
    parser.add_argument("--data", type=Path, help="folder for drawn scenes (default: in --work)")
    parser.add_argument("--smoke", action="store_true", help="a few tiny steps, to see that everything runs")
    parser.add_argument(
        "--stop-after", type=float, default=math.inf, help="seconds after which to save and leave"
    )
    parser.add_argument("--minutes", type=float, help="choose --steps so that the run ends about then")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for field in ("seed", "scenes", "steps", "vision_steps", "batch"):
        parser.add_argument(f"--{field.replace('_', '-')}", type=int)
    arguments = parser.parse_args()
    started = time.time()
    chosen = {f: getattr(arguments, f) for f in ("seed", "scenes", "steps", "vision_steps", "batch")}
    recipe = replace(
        SMOKE if arguments.smoke else Recipe(), **{f: v for f, v in chosen.items() if v is not None}
    )
    device = torch.device(arguments.device)
    torch.set_float32_matmul_precision("high")
    data = arguments.data or arguments.work
    finish_at = started + 60 * arguments.minutes if arguments.minutes else None
    run = Run(arguments.name, recipe, arguments.work, device, started + arguments.stop_after, finish_at)
    train = to_device(
        draw(data / f"train-{recipe.seed}-{recipe.scenes}", "train", recipe.seed, recipe.scenes), device
    )
    held = to_device(draw(data / f"val-{recipe.seed}-{recipe.held}", "val", recipe.seed, recipe.held), device)
    run.note(stage="data", scenes=recipe.scenes)
    if run.vision_stage(train) and run.vlm_stage(train, held):
        run.export(arguments.output)
        run.note(stage="done", output=str(arguments.output))
    else:
        print("out of time: run the same command again to go on")


if __name__ == "__main__":
    main()
