"""One whole repair step of a real model's shape: teacher, student, backward, optimiser. Random weights.

    python benchmarks/repair_step.py             the table, and benchmarks/results/repair_step.json
    python benchmarks/repair_step.py --smoke     seconds, on any machine

Each form trains through ressa's own trainer, on one batch, all towers tuned at the paper's ranks, 2:4 masks
on the vision and language towers, bf16 weights, fp32 factors under bf16 autocast:
    ours                  masks bypassed for the teacher, the lean kernels for the student
    naive SparseLoRA      the same teacher; F.linear(x, W⊙M + s·(BA)⊙M) left to autograd, as the paper's code
    LoRA, second teacher  PEFT's LoRA on the pruned weights, and a dense copy of the model as the teacher
    LoRA, no teacher      PEFT's LoRA with the task loss alone: weights and activations, the bound for memory
    masked fine-tuning    every kept weight, in fp32, a dense copy as the teacher; of the small model only
    …, compiled           the same with the option compile; on a GPU
"""

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
import transformers as hf
from timing import synchronize
from torch import Tensor, nn

from ressa.anatomy import Anatomy, find_anatomy
from ressa.data.sample import Sample
from ressa.files import write_json
from ressa.provenance import versions
from ressa.repairing import sparse_lora_layer
from ressa.repairing.config import RepairConfig
from ressa.repairing.forward import lean_forward
from ressa.repairing.student import make_student
from ressa.repairing.token_objective import TokenObjective
from ressa.repairing.training import Samples, train
from ressa.repairing.weights import mask_weights, weight_of
from ressa.sparsity.mask import unpack_mask
from ressa.sparsity.pattern import parse_pattern

WARM_UP = 3
GIB = 2**30


@dataclass
class Shape:
    """A model's configuration and the lengths of one batch."""

    config: hf.PreTrainedConfig
    kind: type[hf.PreTrainedModel]
    batch: int
    image_tokens: int  # as the language model sees them
    prompt: int
    answer: int
    small: bool = False  # whether every weight of it can be trained

    @property
    def encoder_decoder(self) -> bool:
        return bool(self.config.text_config.is_encoder_decoder)

    @property
    def tokens(self) -> int:
        """Positions of the language model in one batch."""
        return self.batch * (self.image_tokens + self.prompt + self.answer)


def llava(smoke: bool) -> Shape:
    """LLaVA-1.5-7B: CLIP ViT-L/14 at 336 px, Vicuna 7B."""
    vision: dict[str, Any] = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
    vision |= {"num_attention_heads": 16, "image_size": 336, "patch_size": 14}
    text: dict[str, Any] = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
    text |= {"num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32064}
    if smoke:
        vision |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "image_size": 28}
        vision |= {"num_attention_heads": 2}
        text |= {"hidden_size": 32, "intermediate_size": 88, "num_hidden_layers": 2, "vocab_size": 128}
        text |= {"num_attention_heads": 2, "num_key_value_heads": 2}
    patches = (vision["image_size"] // 14) ** 2
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**vision),
        text_config=hf.LlamaConfig(**text),
        image_token_index=text["vocab_size"] - 1,
        image_seq_length=patches,
    )
    return Shape(config, hf.LlavaForConditionalGeneration, 2 if smoke else 8, patches, 64, 32)


def instructblip(smoke: bool) -> Shape:
    """InstructBLIP-FlanT5-XL: EVA ViT-g/14 at 224 px, a Q-Former of 32 queries, Flan-T5-XL."""
    vision: dict[str, Any] = {"hidden_size": 1408, "intermediate_size": 6144, "num_hidden_layers": 39}
    vision |= {"num_attention_heads": 16, "image_size": 224, "patch_size": 14}
    former: dict[str, Any] = {"encoder_hidden_size": 1408}
    text: dict[str, Any] = {
        "d_model": 2048,
        "d_kv": 64,
        "d_ff": 5120,
        "num_layers": 24,
        "num_decoder_layers": 24,
    }
    text |= {"num_heads": 32, "vocab_size": 32128, "feed_forward_proj": "gated-gelu"}
    text |= {"decoder_start_token_id": 0, "tie_word_embeddings": False}
    if smoke:
        vision |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "image_size": 28}
        vision |= {"num_attention_heads": 2}
        former = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "encoder_hidden_size": 32,
        }
        former |= {"num_attention_heads": 2, "vocab_size": 64}
        text |= {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2}
        text |= {"num_heads": 2, "vocab_size": 128}
    config = hf.InstructBlipConfig(
        vision_config=hf.InstructBlipVisionConfig(**vision),
        qformer_config=hf.InstructBlipQFormerConfig(**former),
        text_config=hf.T5Config(**text),
        num_query_tokens=32,
        image_token_index=text["vocab_size"] - 1,
    )
    return Shape(config, hf.InstructBlipForConditionalGeneration, 2 if smoke else 16, 32, 64, 32)


def smollm2(smoke: bool) -> Shape:
    """The LLaVA of scripts/make_pretrained.py: DINOv2-small at 224 px, SmolLM2-135M. Answers as long as texts are."""
    vision: dict[str, Any] = {
        "hidden_size": 384,
        "num_attention_heads": 6,
        "image_size": 224,
        "patch_size": 14,
    }
    text: dict[str, Any] = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
    text |= {"num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49216}
    if smoke:
        vision |= {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28}
        text |= {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 128}
        text |= {"num_attention_heads": 3, "num_key_value_heads": 1}
    patches = (vision["image_size"] // 14) ** 2
    config = hf.LlavaConfig(
        vision_config=hf.Dinov2Config(**vision),
        text_config=hf.LlamaConfig(**text),
        image_token_index=text["vocab_size"] - 1,
        image_seq_length=patches,
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )
    return Shape(config, hf.LlavaForConditionalGeneration, 2 if smoke else 64, patches, 32, 96, small=True)


SHAPES = {"LLaVA-1.5-7B": llava, "InstructBLIP-FlanT5-XL": instructblip, "SmolLM2-135M": smollm2}


def build(shape: Shape, device: str) -> nn.Module:
    """The model with random weights, in bf16 on a GPU and fp32 on the CPU."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if device == "cuda" else torch.float32)
    try:
        with torch.device(device):
            return shape.kind(shape.config).eval()
    finally:
        torch.set_default_dtype(before)


def make_batch(shape: Shape, dtype: torch.dtype) -> dict[str, Tensor]:
    """Random pixels, random prompts behind the image's tokens, random answers, nothing padded."""
    vocabulary = shape.config.text_config.vocab_size

    def draw(length: int, vocabulary: int = vocabulary) -> Tensor:
        return torch.randint(5, vocabulary - 1, (shape.batch, length))

    size = shape.config.vision_config.image_size
    image = torch.full((shape.batch, shape.image_tokens), vocabulary - 1)
    prompt, answer = torch.cat([image, draw(shape.prompt)], 1), draw(shape.answer)
    batch = {"pixel_values": torch.randn(shape.batch, 3, size, size, dtype=dtype)}
    if shape.encoder_decoder:
        questions = draw(shape.prompt, shape.config.qformer_config.vocab_size)
        batch |= {"input_ids": prompt, "labels": answer}
        batch |= {"qformer_input_ids": questions, "qformer_attention_mask": torch.ones_like(questions)}
    else:
        ignored = torch.full_like(prompt, -100)
        batch |= {"input_ids": torch.cat([prompt, answer], 1), "labels": torch.cat([ignored, answer], 1)}
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    return batch


class OneBatch:
    """Stands where the batcher stands; notes the time whenever the trainer fetches its next batch."""

    def __init__(self, batch: dict[str, Tensor], encoder_decoder: bool, device: str) -> None:
        self.batch = batch
        self.encoder_decoder = encoder_decoder
        self.text = SimpleNamespace(end=None)  # no targets are made, so nothing ends them
        self.device = device
        self.times: list[float] = []

    def training(self, samples: list[Sample]) -> dict[str, Tensor]:
        synchronize(self.device)
        self.times.append(time.perf_counter())
        if len(self.times) == WARM_UP and self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        return dict(self.batch)


@contextmanager
def naive_layers() -> Iterator[None]:
    """Within this context SparseLoRA layers compute the formula as the paper's code writes it."""
    masks: dict[int, Tensor] = {}

    def naive(x, weight, packed_mask, lora_a, lora_b, scaling, bias=None):
        mask = masks.get(packed_mask.data_ptr())
        if mask is None:
            mask = masks[packed_mask.data_ptr()] = unpack_mask(packed_mask, weight.shape[1])
        return F.linear(x, weight * mask + scaling * (lora_b @ lora_a) * mask, bias)

    ours = sparse_lora_layer.sparse_lora_linear
    sparse_lora_layer.sparse_lora_linear = naive
    try:
        yield
    finally:
        sparse_lora_layer.sparse_lora_linear = ours


WHOLE = "masked fine-tuning"
FORMS = ["LoRA, no teacher", "ours", "LoRA, second teacher", "naive SparseLoRA", WHOLE]
COMPILED = ", compiled"
FORMS += [form + COMPILED for form in ("ours", WHOLE)]


def forms_of(shape: Shape, device: str) -> list[str]:
    """Those that run of themselves: compiled ones on a GPU, and all weights are trained of a small model."""
    forms = [form for form in FORMS if device == "cuda" or COMPILED not in form]
    return [form for form in forms if shape.small or WHOLE not in form]


def measure(
    form: str, shape: Shape, model: nn.Module, anatomy: Anatomy, batch: dict[str, Tensor], steps: int
) -> dict[str, Any]:
    """Seconds a step, tokens/s and peak memory of one form; `model` (dense) is changed."""
    device = next(model.parameters()).device.type
    masked = [*anatomy.linears("vision"), *anatomy.linears("language")]
    pattern = parse_pattern("2:4")
    masks = {name: pattern.select(weight_of(model, name).detach().abs().float()) for name in masked}
    form, compiled, _ = form.partition(COMPILED)
    whole = form == WHOLE
    shared = not whole and not form.startswith("LoRA")  # one copy of the weights, the dense ones
    config = RepairConfig(
        method="sparse_lora" if shared else "masked_finetune" if whole else "lora",
        objective="task" if form == "LoRA, no teacher" else "both",
        batch_size=shape.batch,
        steps=steps + WARM_UP,
        checkpoints=0,
        precision="auto" if device == "cuda" else "fp32",
        compile=bool(compiled),
    )
    teacher: nn.Module | None = None
    if form == "LoRA, second teacher" or whole:
        teacher = copy.deepcopy(model)
    if not shared:
        mask_weights(model, masks)
    if whole:
        model.float()
    student = make_student(model, masks, anatomy, config, dense_weights=shared)
    if shared:
        teacher = student
    del masks
    loader = OneBatch(batch, shape.encoder_decoder, device)
    samples = Samples([None] * (shape.batch * (steps + WARM_UP)))  # type: ignore[list-item]
    forms: Callable[[], Any] = naive_layers if form == "naive SparseLoRA" else nullcontext
    with forms(), lean_forward(model):
        objective = TokenObjective(loader, config)  # type: ignore[arg-type]
        curve = train(student, teacher, anatomy, samples, objective, config)
    seconds = [end - start for start, end in zip(loader.times, loader.times[1:], strict=False)][WARM_UP - 1 :]
    found: dict[str, Any] = {"seconds": median(seconds), "fastest": min(seconds), "slowest": max(seconds)}
    found["tokens_per_s"] = shape.tokens / found["seconds"]
    found["losses"] = [entry["loss"] for entry in curve]
    found["trainable"] = sum(p.numel() for p in student.parameters() if p.requires_grad)
    if device == "cuda":
        found["peak_bytes"] = torch.cuda.max_memory_allocated()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON (default: benchmarks/results/repair_step.json)")
    parser.add_argument("--model", choices=list(SHAPES), action="append", help="default: all")
    parser.add_argument("--form", choices=FORMS, action="append", help="default: all that suit")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--smoke", action="store_true", help="tiny models, to see that everything runs")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not options.smoke:
        parser.error("this needs a GPU; --smoke runs tiny models on the CPU")
    steps = 2 if options.smoke else options.steps
    report: dict[str, Any] = {"versions": versions(), "models": {}}
    print(report["versions"])
    for name in options.model or SHAPES:
        shape = SHAPES[name](options.smoke)
        rows: dict[str, Any] = {}
        for form in options.form or forms_of(shape, device):
            torch.manual_seed(0)
            model = build(shape, device)
            anatomy = find_anatomy(model)
            weights = sum(p.numel() * p.element_size() for p in model.parameters())
            batch = make_batch(shape, next(model.parameters()).dtype)
            rows[form] = measure(form, shape, model, anatomy, batch, steps)
            del model
            if device == "cuda":
                torch.cuda.empty_cache()
        print(
            f"\n{name}-shaped, {weights / GIB:.1f} GiB of weights, {shape.batch} samples of "
            f"{shape.image_tokens} image + {shape.prompt} + {shape.answer} tokens = {shape.tokens} "
            "positions a step"
        )
        bound = rows.get("LoRA, no teacher", {}).get("peak_bytes")
        print(f"  {'':30}{'s a step':>10}{'range':>16}{'tokens/s':>10}{'peak GiB':>10}{'of bound':>10}")
        for form, row in rows.items():
            spread = f"{row['fastest']:.3f}–{row['slowest']:.3f}"
            peak = row.get("peak_bytes")
            memory = f"{peak / GIB:.1f}" if peak else "–"
            share = f"{peak / bound:.3f}" if peak and bound else "–"
            print(
                f"  {form:30}{row['seconds']:10.3f}{spread:>16}{row['tokens_per_s']:10.0f}"
                f"{memory:>10}{share:>10}"
            )
        report["models"][name] = {
            "weights_bytes": weights,
            "batch": shape.batch,
            "tokens": shape.tokens,
            "forms": rows,
        }
    output = options.output or (None if options.smoke else Path(__file__).parent / "results/repair_step.json")
    if output:
        write_json(output, report)
        print(f"\nwritten: {output}")


if __name__ == "__main__":
    main()
