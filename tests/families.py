"""Tiny random-weight VLMs of many families, built from configs in code, and a small batch of inputs for each.

`FAMILIES` maps a name to a `Family`; `family.model()` builds the model (float32, eval mode, seeded) and
`family.batch()` one batch of two samples whose texts differ in length, so that there is padding.
Every width is a multiple of 8: 2:4 and 4:8 fit every linear.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import transformers as hf
from torch import Tensor

IMAGE_TOKEN = 60
VOCABULARY = 64
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
LANGUAGE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
QFORMER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "encoder_hidden_size": 16,
    "cross_attention_frequency": 2,
    "max_position_embeddings": 32,
}
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 24,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 2,
    "feed_forward_proj": "gated-gelu",
    "pad_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 0,
    "tie_word_embeddings": False,
}
QUERIES = 4


@dataclass(frozen=True)
class Family:
    """One model family: `build()` makes the model, `inputs(seed)` a batch; the rest is what tests expect."""

    name: str
    build: Callable[[], hf.PreTrainedModel]
    inputs: Callable[[int], dict[str, Tensor]]
    chains: dict[str, tuple[int, ...]]  # tower -> number of blocks of each chain
    image_tokens: bool = False  # the language tower sees image tokens that input_ids mark

    def model(self, seed: int = 0) -> hf.PreTrainedModel:
        """A fresh model with weights large enough that every token and layer matters; float32, eval mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self.build()
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    torch.nn.init.normal_(parameter, std=0.2)
                elif parameter.ndim == 1:
                    parameter.data.add_(torch.randn_like(parameter) * 0.05)
        return model.float().eval()

    def batch(self, seed: int = 0) -> dict[str, Tensor]:
        """Two samples, the second padded; includes labels where the model takes them."""
        return self.inputs(seed)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _pixels(seed: int, *shape: int) -> Tensor:
    return torch.randn(*(shape or (2, 3, 16, 16)), generator=_generator(seed))


def _text(seed: int, image_tokens: int = 0, length: int = 6, side: str = "right") -> dict[str, Tensor]:
    """input_ids (2, image_tokens + length) and attention_mask; the second row has two padded positions."""
    ids = torch.randint(4, IMAGE_TOKEN - 4, (2, length), generator=_generator(seed + 1))
    ids = torch.cat([torch.full((2, image_tokens), IMAGE_TOKEN), ids], 1)
    mask = torch.ones_like(ids)
    if side == "right":
        mask[1, -2:] = 0
    else:
        ids[1] = ids[1].roll(2)
        mask[1, :2] = 0
    ids[mask == 0] = 0
    return {"input_ids": ids, "attention_mask": mask}


def _labels(text: dict[str, Tensor]) -> Tensor:
    return text["input_ids"].masked_fill(
        (text["attention_mask"] == 0) | (text["input_ids"] == IMAGE_TOKEN), -100
    )


def _target(seed: int) -> Tensor:
    """Labels of an encoder-decoder: (2, 5), the second row two short."""
    labels = torch.randint(4, IMAGE_TOKEN - 4, (2, 5), generator=_generator(seed + 2))
    labels[1, -2:] = -100
    return labels


def _causal_batch(image_tokens: int, **pixels: tuple[int, ...]) -> Callable[[int], dict[str, Tensor]]:
    def inputs(seed: int) -> dict[str, Tensor]:
        text = _text(seed, image_tokens)
        return {"pixel_values": _pixels(seed, *pixels.get("shape", ())), **text, "labels": _labels(text)}

    return inputs


def _instructblip(language: hf.PreTrainedConfig) -> hf.PreTrainedModel:
    config = hf.InstructBlipConfig(
        vision_config=hf.InstructBlipVisionConfig(**VISION),
        qformer_config=hf.InstructBlipQFormerConfig(**QFORMER),
        text_config=language,
        num_query_tokens=QUERIES,
        image_token_index=IMAGE_TOKEN,
    )
    return hf.InstructBlipForConditionalGeneration(config)


def _instructblip_inputs(encoder_decoder: bool) -> Callable[[int], dict[str, Tensor]]:
    def inputs(seed: int) -> dict[str, Tensor]:
        text = _text(seed, QUERIES)
        qformer = _text(seed + 7, length=4)
        return {
            "pixel_values": _pixels(seed),
            **text,
            "qformer_input_ids": qformer["input_ids"],
            "qformer_attention_mask": qformer["attention_mask"],
            "labels": _target(seed) if encoder_decoder else _labels(text),
        }

    return inputs


def _instructblip_t5() -> hf.PreTrainedModel:
    return _instructblip(hf.T5Config(**T5))


def _instructblip_llama() -> hf.PreTrainedModel:
    return _instructblip(hf.LlamaConfig(**LANGUAGE))


def _blip2_opt() -> hf.PreTrainedModel:
    language = hf.OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=24,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        word_embed_proj_dim=24,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    config = hf.Blip2Config(
        vision_config=hf.Blip2VisionConfig(**VISION),
        qformer_config=hf.Blip2QFormerConfig(**QFORMER),
        text_config=language,
        num_query_tokens=QUERIES,
        image_token_index=IMAGE_TOKEN,
    )
    return hf.Blip2ForConditionalGeneration(config)


def _llava() -> hf.PreTrainedModel:
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**VISION),
        text_config=hf.LlamaConfig(**LANGUAGE),
        image_token_index=IMAGE_TOKEN,
        image_seq_length=4,
    )
    return hf.LlavaForConditionalGeneration(config)


def _paligemma() -> hf.PreTrainedModel:
    config = hf.PaliGemmaConfig(
        vision_config=hf.SiglipVisionConfig(**VISION, vision_use_head=False, projection_dim=24),
        text_config=hf.GemmaConfig(**LANGUAGE, head_dim=8),
        image_token_index=IMAGE_TOKEN,
        projection_dim=24,
    )
    return hf.PaliGemmaForConditionalGeneration(config)


def _paligemma_inputs(seed: int) -> dict[str, Tensor]:
    batch = _causal_batch(4)(seed)
    prefix = torch.arange(batch["input_ids"].shape[1]) < 7  # the image and three prompt tokens
    return {**batch, "token_type_ids": (~prefix).long().expand(2, -1).clone()}


ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
GRID = torch.tensor([[1, 4, 4], [1, 4, 4]])


def _qwen2_5_vl() -> hf.PreTrainedModel:
    vision = {
        "depth": 3,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 24,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 8,
        "fullatt_block_indexes": [1],
    }
    text = {**LANGUAGE, "head_dim": 12, "hidden_size": 16, "rope_parameters": ROPE}
    text = {k: v for k, v in text.items() if k != "head_dim"}
    vision["out_hidden_size"] = text["hidden_size"]
    config = hf.Qwen2_5_VLConfig(
        vision_config=vision, text_config=text, image_token_id=IMAGE_TOKEN, video_token_id=61
    )
    return hf.Qwen2_5_VLForConditionalGeneration(config)


def _qwen3_vl() -> hf.PreTrainedModel:
    vision = {
        "depth": 3,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 16,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 1],
    }
    text = {**LANGUAGE, "num_hidden_layers": 3, "head_dim": 8, "hidden_size": 16, "rope_parameters": ROPE}
    config = hf.Qwen3VLConfig(
        vision_config=vision, text_config=text, image_token_id=IMAGE_TOKEN, video_token_id=61
    )
    return hf.Qwen3VLForConditionalGeneration(config)


def _qwen_inputs(seed: int) -> dict[str, Tensor]:
    batch = _causal_batch(4, shape=(32, 3 * 2 * 4 * 4))(seed)
    types = (batch["input_ids"] == IMAGE_TOKEN).long()
    return {**batch, "image_grid_thw": GRID.clone(), "mm_token_type_ids": types}


def _smolvlm() -> hf.PreTrainedModel:
    config = hf.SmolVLMConfig(
        vision_config=hf.SmolVLMVisionConfig(**VISION),
        text_config=hf.LlamaConfig(**LANGUAGE),
        image_token_id=IMAGE_TOKEN,
        scale_factor=2,
        pad_token_id=0,
    )
    return hf.SmolVLMForConditionalGeneration(config)


# As wide as the vision tower: the answer decoder attends to the question encoder with layers made for images.
BLIP_TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "encoder_hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "sep_token_id": 2,
}


def _blip_vqa() -> hf.PreTrainedModel:
    config = hf.BlipConfig(vision_config=VISION, text_config=BLIP_TEXT)
    return hf.BlipForQuestionAnswering(config)


def _blip_vqa_inputs(seed: int) -> dict[str, Tensor]:
    target = _target(seed)
    return {
        "pixel_values": _pixels(seed),
        **_text(seed),
        "decoder_input_ids": target.masked_fill(target == -100, 0),
        "decoder_attention_mask": (target != -100).long(),
        "labels": target,
    }


def _blip_caption() -> hf.PreTrainedModel:
    return hf.BlipForConditionalGeneration(hf.BlipConfig(vision_config=VISION, text_config=BLIP_TEXT))


def _clip() -> hf.PreTrainedModel:
    text = {k: v for k, v in LANGUAGE.items() if k != "num_key_value_heads"}
    config = hf.CLIPConfig(vision_config=VISION, text_config=text, projection_dim=16)
    return hf.CLIPModel(config)


def _clip_inputs(seed: int) -> dict[str, Tensor]:
    text = _text(seed)
    last = text["attention_mask"].sum(1, keepdim=True) - 1
    return {
        "pixel_values": _pixels(seed),
        "input_ids": text["input_ids"].scatter(1, last, 2),
        "attention_mask": text["attention_mask"],
    }


def _gemma3() -> hf.PreTrainedModel:
    """Every second block attends within a window and turns its positions by another angle."""
    kinds = ["sliding_attention", "full_attention"] * 2
    text = {**LANGUAGE, "num_hidden_layers": 4, "head_dim": 8, "sliding_window": 4, "layer_types": kinds}
    config = hf.Gemma3Config(
        vision_config=hf.SiglipVisionConfig(**VISION, vision_use_head=False),
        text_config=hf.Gemma3TextConfig(**text),
        mm_tokens_per_image=4,
        image_token_index=IMAGE_TOKEN,
        boi_token_index=61,
        eoi_token_index=62,
    )
    return hf.Gemma3ForConditionalGeneration(config)


def _gemma3_inputs(seed: int) -> dict[str, Tensor]:
    batch = _causal_batch(4)(seed)
    return {**batch, "token_type_ids": (batch["input_ids"] == IMAGE_TOKEN).long()}


def _mllama() -> hf.PreTrainedModel:
    """Two chains in the vision tower; language blocks of two kinds, one of which attends to the image."""
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_global_layers": 2,
        "attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
        "vision_output_dim": 48,
        "intermediate_layers_indices": [0, 1],
        "max_num_tiles": 2,
        "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
    }
    text = {**LANGUAGE, "num_hidden_layers": 4, "cross_attention_layers": [1, 3]}
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    config = hf.MllamaConfig(
        vision_config=vision, text_config={**text, "rope_parameters": rope}, image_token_index=62
    )
    return hf.MllamaForConditionalGeneration(config)


def _mllama_inputs(seed: int) -> dict[str, Tensor]:
    batch = _causal_batch(0, shape=(2, 1, 2, 3, 16, 16))(seed)
    length = batch["input_ids"].shape[1]
    return {
        **batch,
        "aspect_ratio_ids": torch.full((2, 1), 2),
        "aspect_ratio_mask": torch.ones(2, 1, 2, dtype=torch.long),
        "cross_attention_mask": torch.ones(2, length, 1, 2, dtype=torch.long),
    }


def _florence2() -> hf.PreTrainedModel:
    """A convolutional vision tower in stages, and a BART."""
    vision = {
        "embed_dim": [8, 16],
        "depths": [1, 2],
        "num_heads": [2, 2],
        "num_groups": [2, 2],
        "patch_size": [4, 2],
        "patch_stride": [2, 2],
        "patch_padding": [1, 0],
        "patch_prenorm": [False, True],
        "window_size": 2,
        "projection_dim": 24,
        "drop_path_rate": 0.0,
    }
    text = hf.BartConfig(
        vocab_size=VOCABULARY,
        d_model=24,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
    )
    config = hf.Florence2Config(vision_config=vision, text_config=text.to_dict(), image_token_id=IMAGE_TOKEN)
    return hf.Florence2ForConditionalGeneration(config)


def _florence2_inputs(seed: int) -> dict[str, Tensor]:
    return {"pixel_values": _pixels(seed), **_text(seed, 17), "labels": _target(seed)}


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("instructblip-t5", _instructblip_t5, _instructblip_inputs(True),
               {"vision": (2,), "connector": (2, 1), "language": (2, 2)}, image_tokens=True),
        Family("instructblip-llama", _instructblip_llama, _instructblip_inputs(False),
               {"vision": (2,), "connector": (2, 1), "language": (2,)}, image_tokens=True),
        Family("blip2-opt", _blip2_opt, _causal_batch(QUERIES),
               {"vision": (2,), "connector": (2, 1), "language": (2,)}, image_tokens=True),
        Family("llava", _llava, _causal_batch(4),
               {"vision": (2,), "connector": (1,), "language": (2,)}, image_tokens=True),
        Family("paligemma", _paligemma, _paligemma_inputs,
               {"vision": (2,), "connector": (1,), "language": (2,)}, image_tokens=True),
        Family("qwen2.5-vl", _qwen2_5_vl, _qwen_inputs,
               {"vision": (3,), "connector": (1,), "language": (2,)}, image_tokens=True),
        Family("qwen3-vl", _qwen3_vl, _qwen_inputs,
               {"vision": (3,), "connector": (1, 2), "language": (3,)}, image_tokens=True),
        Family("smolvlm", _smolvlm, _causal_batch(1, shape=(2, 1, 3, 16, 16)),
               {"vision": (2,), "connector": (1,), "language": (2,)}, image_tokens=True),
        Family("blip-caption", _blip_caption, _causal_batch(0),
               {"vision": (2,), "language": (2,)}),
        Family("blip-vqa", _blip_vqa, _blip_vqa_inputs,
               {"vision": (2,), "language": (2, 2)}),
        Family("clip", _clip, _clip_inputs,
               {"vision": (2,), "connector": (1, 1), "language": (2,)}),
        Family("gemma3", _gemma3, _gemma3_inputs,
               {"vision": (2,), "language": (4,)}, image_tokens=True),
        Family("mllama", _mllama, _mllama_inputs,
               {"vision": (3, 2), "connector": (1,), "language": (4,)}),
        Family("florence2", _florence2, _florence2_inputs,
               {"vision": (3,), "connector": (1,), "language": (2, 2)}, image_tokens=True),
    )
}  # fmt: skip
every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
