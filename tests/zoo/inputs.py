"""A batch of pictures and words for a tiny model of any family, whole or sample by sample.

Pictures are 32 pixels wide with patches of 8: four by four patches a picture, and four tokens where a family merges
two by two. What a family wants in another form stands in `PICTURES`, by what it is called.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from zoo.catalog import DUAL, FAMILIES
from zoo.configs import END, IMAGE, PAD

T = TypeVar("T")
Batch = dict[str, Tensor]
SIDE = 4  # patches along a picture
PATCHES = SIDE * SIDE
LENGTHS = (6, 4)  # words of the samples of a batch
ANSWERS = (5, 3)

# How many tokens stand for a picture where it is not one for each four patches.
TOKENS = {
    **dict.fromkeys(("minicpmv4_6", "minicpmv4_7", "step3p7", "granite_docling"), 1),
    "unlimited_ocr": 3,
    "hunyuan_vl": 8,
    "granite4_vision": 10,
    **dict.fromkeys(("deepseek_vl", "deepseek_vl_hybrid", "janus", "llava", "paligemma"), 16),
    **dict.fromkeys(("video_llama_3", "video_llava", "vipllava"), 16),
    "instructblipvideo": 16,  # four frames
    "florence2": 17,
    "colpali": 16,
    **dict.fromkeys(("colqwen2", "blip-2_retrieval"), 4),
    **dict.fromkeys(("colmodernvbert", "modernvbert", "ultravbert", "fast_vlm"), 1),
    "gemma3n": 256,
    "perception_lm": 16,
    "neomme": 16,
    "phi4_multimodal": 13,
    **dict.fromkeys(("llava_next", "llava_next_video", "llava_onevision"), 36),
    "deepseek_ocr2": 145,
    "chameleon": 256,
    "emu3": 272,
}
FROM_PICTURES_ALONE = ("pix2struct", "pp_formulanet", "vision-encoder-decoder")
# Labels that are no words, or none at all.
OTHER_LABELS = (
    *("pi0", "colpali", "colqwen2", "grounding-dino", "mm-grounding-dino", "vilt", "vilt_retrieval"),
    *("layoutlmv3", "shieldgemma2_classifier", "bridgetower_retrieval"),
)
ANSWERING = (*FROM_PICTURES_ALONE, "udop")  # labels are a text of their own


class Random:
    """Numbers for one sample."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def words(self, length: int) -> Tensor:
        return torch.randint(4, 60, (1, length), generator=self.generator)


def pixels(number: Random, model: Any, *before: int) -> Tensor:
    """A picture (1, …, 3, side, side)."""
    vision = getattr(model.config, "vision_config", None)
    side = getattr(vision, "image_size", 32) or 32
    side = side[0] if isinstance(side, list | tuple) else side
    return number.normal(1, *before, 3, side, side)


def _square(count: int = 1) -> Tensor:
    return torch.full((1, 2), SIDE) if count == 1 else torch.tensor([[1, SIDE, SIDE]])


def _packed(number: Random, model: Any) -> Batch:
    """Patches of all pictures one after another, and how they lie, as Qwen2-VL has them."""
    vision = model.config.vision_config
    times = getattr(vision, "temporal_patch_size", None) or getattr(vision, "patch_temporal", None) or 1
    return {
        "pixel_values": number.normal(PATCHES, 3 * times * vision.patch_size**2),
        "image_grid_thw": _square(3),
    }


def _unfolded(number: Random, model: Any) -> Batch:
    """As packed, with patches that are still square."""
    return {"pixel_values": number.normal(PATCHES, 3, 8, 8), "image_grid_thw": _square(3)}


def _placed(side: int, features: int) -> Callable[[Random, Any], Batch]:
    """Patches with the places they have in the picture, as Gemma 4 wants them."""

    def make(number: Random, _model: Any) -> Batch:
        line = torch.arange(side)
        places = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).view(1, -1, 2).clone()
        return {"pixel_values": number.normal(1, side * side, features), "image_position_ids": places}

    return make


def _flattened(number: Random, model: Any) -> Batch:
    """Patches that begin with their row and column (Pix2Struct)."""
    row, column = torch.arange(6) // 3 + 1.0, torch.arange(6) % 3 + 1.0
    width = model.config.vision_config.patch_embed_hidden_size
    patches = torch.cat([torch.stack([row, column], -1), number.normal(6, width)], -1)
    return {"flattened_patches": patches[None]}


def _molmo(number: Random, _model: Any) -> Batch:
    pooled = torch.arange(PATCHES).view(2, 2, 2, 2).permute(0, 2, 1, 3).reshape(4, 4)
    return {
        "pixel_values": number.normal(1, PATCHES, 3 * 8 * 8),
        "image_token_pooling": pooled,
        "image_grids": torch.tensor([[2, 2, 0, 0]]),
        "image_num_crops": torch.ones(1, dtype=torch.long),
    }


def _tiles(number: Random, model: Any) -> Batch:
    """The whole picture and one tile (LLaVA-NeXT)."""
    return {"pixel_values": pixels(number, model, 2), "image_sizes": torch.tensor([[32, 32]])}


def _sized(number: Random, _model: Any) -> Batch:
    return {"pixel_values": number.normal(1, 3, 32, 32), "image_sizes": torch.tensor([[32, 32]])}


def _listed(number: Random, model: Any) -> Batch:
    """A list of pictures a sample, here of one."""
    return {"pixel_values": pixels(number, model, 1)}


def _mllama(number: Random, _model: Any) -> Batch:
    return {
        "pixel_values": number.normal(1, 1, 2, 3, 32, 32),
        "aspect_ratio_ids": torch.full((1, 1), 2),
        "aspect_ratio_mask": torch.ones(1, 1, 2, dtype=torch.long),
    }


def _navit(number: Random, _model: Any) -> Batch:
    return {
        "pixel_values": number.normal(1, PATCHES, 3 * 8 * 8),
        "spatial_shapes": _square(),
        "pixel_attention_mask": torch.ones(1, PATCHES, dtype=torch.long),
    }


def _strip(number: Random, _model: Any) -> Batch:
    """Patches side by side, those of all pictures in one strip (MiniCPM-V)."""
    return {"pixel_values": number.normal(1, 3, 8, 8 * PATCHES), "target_sizes": _square()}


def _robot(number: Random, model: Any) -> Batch:
    """π0 reads a state and noisy actions beside a picture."""
    return {
        **_listed(number, model),
        "pixel_attention_mask": torch.ones(1, 1, dtype=torch.bool),
        "state": number.normal(1, 32),
        "actions": number.normal(1, 50, 32),
    }


PICTURES: dict[str, Callable[[Random, Any], Batch]] = {
    **dict.fromkeys(("paddleocr_vl", "kimi_k25"), _unfolded),
    **dict.fromkeys(("llava_next", "llava_next_video", "llava_onevision", "granite4_vision"), _tiles),
    **dict.fromkeys(("mistral3", "lighton_ocr", "mistral_large4", "emu3"), _sized),
    **dict.fromkeys(("idefics", "idefics2", "idefics3", "smolvlm", "perception_lm"), _listed),
    **dict.fromkeys(("colmodernvbert", "modernvbert", "ultravbert"), _listed),
    "neomme": lambda number, _: {"pixel_values": number.normal(PATCHES, 3 * 8 * 8)},
    **dict.fromkeys(("minicpm_ocr", "minicpmv4_6", "minicpmv4_7"), _strip),
    **dict.fromkeys(("pix2struct",), _flattened),
    **dict.fromkeys(("gemma4", "diffusion_gemma", "embedding_gemma2"), _placed(6, 3 * 8 * 8)),
    "gemma4_unified": _placed(2, 3 * 24 * 24),
    "molmo2": _molmo,
    "mllama": _mllama,
    "lfm2_vl": _navit,
    "pi0": _robot,
    "granite_docling": lambda number, model: {
        **_listed(number, model),
        "pixel_attention_mask": torch.ones(1, 1, dtype=torch.bool),
    },
    "inkling2": lambda number, _: {
        "pixel_values": number.normal(4, 16, 16, 3),
        "image_grid_thw": torch.tensor([[1, 2, 2]]),
    },
    "inkling_mm_model": lambda number, _: {"pixel_values": number.normal(4, 2, 8, 8, 3)},
    "nemotron_h_omni": lambda number, _: {
        "pixel_values": number.normal(PATCHES, 3 * 8 * 8),
        "image_grid_hw": _square(),
    },
    "video_llama_3": lambda number, _: {
        "pixel_values": number.normal(PATCHES, 3 * 8 * 8),
        "image_grid_thw": _square(3),
        "image_merge_sizes": torch.ones(1, dtype=torch.long),
    },
    "kosmos-2.5": lambda number, model: {
        **_flattened(number, model),
        "width": torch.tensor([3]),
        "height": torch.tensor([2]),
    },
    "deepseek_vl_hybrid": lambda number, _: {
        "pixel_values": number.normal(1, 3, 32, 32),
        "high_res_pixel_values": number.normal(1, 3, 64, 64),
    },
    "instructblipvideo": lambda number, _: {"pixel_values": number.normal(1, 4, 3, 32, 32)},
    "video_llava": lambda number, _: {"pixel_values_images": number.normal(1, 3, 32, 32)},
    "colqwen2": lambda number, _: {
        "pixel_values": number.normal(1, PATCHES, 3 * 2 * 8 * 8),
        "image_grid_thw": _square(3),
    },
    "siglip2": _navit,
    **dict.fromkeys(
        ("grounding-dino", "mm-grounding-dino"),
        lambda number, _: {"pixel_values": number.normal(1, 3, 64, 64)},
    ),
    "xclip": lambda number, _: {"pixel_values": number.normal(1, 8, 3, 32, 32)},
    "videoprism": lambda number, _: {"pixel_values_videos": number.normal(1, 4, 3, 32, 32)},
    "phi4_multimodal": lambda number, _: {
        "image_pixel_values": number.normal(1, 2, 3, 32, 32),
        "image_sizes": torch.tensor([[32, 32]]),
        "image_attention_mask": torch.ones(1, 2, SIDE, SIDE, dtype=torch.bool),
    },
    "fuyu": lambda number, model: {"image_patches": number.normal(1, 4, 3 * model.config.patch_size**2)},
}


def sample(family: str, model: Any, seed: int, words: int = LENGTHS[0], answer: int = ANSWERS[0]) -> Batch:
    """Model inputs of one sample, without padding: a picture, `words` words, and an answer where the labels are a
    text of their own."""
    number, kind = Random(seed), FAMILIES[family].config
    taken = inspect.signature(model.forward).parameters
    image = image_token(model)
    seen = _of(PICTURES, family) or (_packed if "image_grid_thw" in taken else None)
    made = seen(number, model) if seen else {"pixel_values": pixels(number, model)}
    marks = _of(TOKENS, family, 0 if family in DUAL else 4)
    ids = torch.cat([torch.full((1, marks), image), number.words(words)], 1)
    if family in DUAL:
        ids[:, -1] = END
    is_image = ids == image
    answers = number.words(answer)
    separate = kind in ANSWERING or family == "blip_vqa" or model.config.get_text_config().is_encoder_decoder
    labels = answers if separate else ids.masked_fill(is_image, -100)
    if kind not in FROM_PICTURES_ALONE:
        made |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    elif kind == "pix2struct":  # smaller pictures have fewer patches
        made["flattened_patches"] = made["flattened_patches"][:, :words]
        made["attention_mask"] = torch.ones(made["flattened_patches"].shape[:2], dtype=torch.long)
    if "labels" in taken and family not in OTHER_LABELS:
        made["labels"] = labels
    if separate and "decoder_attention_mask" in taken:
        made["decoder_attention_mask"] = torch.ones_like(answers)
    if family in ("pp_formulanet", "blip_vqa"):
        made["decoder_input_ids"] = answers
    for name in ("mm_token_type_ids", "moe_mm_token_type_ids"):
        if name in taken:
            made[name] = is_image.long()
    if "token_type_ids" in taken and kind in ("gemma3", "shieldgemma2"):
        made["token_type_ids"] = is_image.long()
    if kind == "paligemma":  # the picture and one word are the prompt
        made["token_type_ids"] = (torch.arange(ids.shape[1]) > TOKENS[family]).long()[None]
    if "qformer_input_ids" in taken:
        made["qformer_input_ids"] = number.words(min(words, 4))
        made["qformer_attention_mask"] = torch.ones_like(made["qformer_input_ids"])
    if kind.startswith("kosmos"):
        made["image_embeds_position_mask"] = is_image.long() if kind == "kosmos-2.5" else is_image
    if kind == "mllama":
        made["cross_attention_mask"] = torch.ones(1, ids.shape[1], 1, 2, dtype=torch.long)
    if kind == "idefics":
        made["image_attention_mask"] = torch.ones(1, ids.shape[1], 1, dtype=torch.long)
    if kind == "udop":
        corners = torch.rand(1, ids.shape[1], 4, generator=number.generator)
        made["bbox"] = corners.sort(-1).values
    if kind == "layoutlmv3":
        corners = torch.randint(0, 100, (1, ids.shape[1], 4), generator=number.generator)
        made |= {"bbox": corners.sort(-1).values, "labels": ids % 2}
    if family == "vilt":
        made["labels"] = torch.eye(2)[words % 2][None]
    return made


def _of(table: Mapping[str, T], family: str, default: T | None = None) -> T | None:
    """What a table says of a family, or of all that have its config."""
    return table.get(family, table.get(FAMILIES[family].config, default))


def samples(family: str, model: Any, seed: int = 0) -> list[Batch]:
    """Two samples, each a batch of its own."""
    pairs = enumerate(zip(LENGTHS, ANSWERS, strict=True))
    return [sample(family, model, 2 * seed + n, words, answer) for n, (words, answer) in pairs]


def together(alone: list[Batch]) -> Batch:
    """Samples in one batch, the shorter texts padded on the right."""
    made: Batch = {}
    for name in alone[0]:
        parts = [each[name] for each in alone]
        if name == "pixel_values" and "target_sizes" in alone[0]:
            made[name] = torch.cat(parts, -1)
        elif name == "image_token_pooling":
            made[name] = torch.cat([part + PATCHES * n for n, part in enumerate(parts)])
        else:
            made[name] = torch.cat(
                [_padded(part, parts, -100 if name == "labels" else PAD) for part in parts]
            )
    return made


def _padded(part: Tensor, parts: list[Tensor], value: int) -> Tensor:
    """A tensor as long as the longest of its like."""
    if part.dim() < 2:
        return part
    longest = max(each.shape[1] for each in parts)
    filled = part.new_full((len(part), longest, *part.shape[2:]), value)
    filled[:, : part.shape[1]] = part
    return filled


def image_token(model: Any) -> int:
    """The token that stands for a picture."""
    config = getattr(model.config, "vlm_config", model.config)
    names = ("image_token_id", "image_token_index", "image_patch_id", "video_token_index")
    found = [each for name in names if isinstance(each := getattr(config, name, None), int)]
    return found[0] if found else IMAGE
