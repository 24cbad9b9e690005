"""Tiny models with their real processors, made without a download: image processors and tokenizers from classes.

    model, processor = processed("qwen2_vl")

The models are those of `zoo.build`, and the tokenizer has a word for each of their numbers; dual encoders are those of
`tests/dual`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import transformers as hf
from dual.models import DUAL
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from zoo import build
from zoo.configs import BEGIN, END, IMAGE, PAD, VOCABULARY

WORDS = (
    ": ? . , question short answer a description what is in the picture how many there red blue green white black "
    "grey cat dog bird car tree house left right of on under above below two one three four yes no and with has near "
    "it image shows you see can an background which number objects kind user assistant <end> animal vehicle fruit"
)
SIDE = 32
SQUARE = {"height": SIDE, "width": SIDE}
PACKED = {"shortest_edge": 256, "longest_edge": 4096}  # pixels
TEMPLATE = (
    "{% for message in messages %}{{ message.role }} : {% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %} <end> {% endfor %}{% if add_generation_prompt %}assistant : {% endif %}"
)
Processor = Any


def words(marks: Mapping[str, int] | None = None, end: bool = False, **named: str) -> Any:
    """A tokenizer: word by word, lower case.

    marks: special words and their numbers. end: whether texts end by </s>. named: marks by the names that a processor
    asks the tokenizer for (`image_token`).
    """
    marks = dict(marks or {})
    numbers = {"<pad>": PAD, "<s>": BEGIN, "</s>": END, "<unk>": 3} | marks
    taken = set(numbers.values())
    free = iter([number for number in range(VOCABULARY) if number not in taken])
    numbers |= {word: next(free) for word in WORDS.split()}
    numbers |= {f"<spare{number}>": number for number in free}
    core = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    if end:
        core.post_processor = processors.TemplateProcessing(
            single="$A </s>", pair="$A $B </s>", special_tokens=[("</s>", END)]
        )
    tokens = hf.PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=named,
    )
    tokens.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    return tokens


def numbered(first: str, *others: str) -> dict[str, int]:
    """Marks: the one that stands for a picture, and others."""
    return {first: IMAGE} | {mark: IMAGE + 10 + number for number, mark in enumerate(others)}


# -- a row a family -------------------------------------------------------------------------------------------


def _clip_images(**more: Any) -> Any:
    return hf.CLIPImageProcessor(**{"size": {"shortest_edge": SIDE}, "crop_size": SQUARE} | more)


def _counted(images: Any, tokens: int) -> Any:
    """An image processor that says how many tokens a picture has."""
    images.image_seq_length = tokens
    return images


def _llava(_model: Any) -> Processor:
    tokens = words(numbered("<image>"), image_token="<image>")
    more = {"vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    return hf.LlavaProcessor(_clip_images(), tokens, patch_size=8, **more)


def _llava_next(model: Any) -> Processor:
    images = hf.LlavaNextImageProcessor(
        size={"shortest_edge": SIDE},
        crop_size=SQUARE,
        image_grid_pinpoints=model.config.image_grid_pinpoints,
    )
    tokens = words(numbered("<image>"), image_token="<image>")
    more = {"vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    return hf.LlavaNextProcessor(images, tokens, patch_size=8, **more)


def _llava_onevision(model: Any) -> Processor:
    images = hf.LlavaOnevisionImageProcessor(
        size=SQUARE, image_grid_pinpoints=model.config.image_grid_pinpoints
    )
    return hf.LlavaOnevisionProcessor(
        images,
        words(numbered("<image>", "<video>"), image_token="<image>"),
        hf.LlavaOnevisionVideoProcessor(),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
    )


def _blip(_model: Any) -> Processor:
    return hf.BlipProcessor(hf.BlipImageProcessor(size=SQUARE), words(end=True))


def _blip2(_model: Any) -> Processor:
    tokens = words(numbered("<image>"))
    return hf.Blip2Processor(hf.BlipImageProcessor(size=SQUARE), tokens, num_query_tokens=4)


def _instructblip(_model: Any) -> Processor:
    images, tokens = hf.BlipImageProcessor(size=SQUARE), words(numbered("<image>"))
    return hf.InstructBlipProcessor(images, tokens, qformer_tokenizer=words(), num_query_tokens=4)


def _qwen(kind: str) -> Callable[[Any], Processor]:
    def make(model: Any) -> Processor:
        config, vision = model.config, model.config.vision_config
        marks = {
            "<|image_pad|>": config.image_token_id,
            "<|video_pad|>": config.video_token_id,
            "<|vision_start|>": config.vision_start_token_id,
            "<|vision_end|>": config.vision_end_token_id,
        }
        sizes = {
            "patch_size": vision.patch_size,
            "merge_size": vision.spatial_merge_size,
            "temporal_patch_size": vision.temporal_patch_size,
            "size": PACKED,
        }
        images, videos = hf.Qwen2VLImageProcessor(**sizes), hf.Qwen2VLVideoProcessor(**sizes)
        tokens = words(marks, image_token="<|image_pad|>")
        return getattr(hf, kind)(images, tokens, videos, chat_template=TEMPLATE)

    return make


def _glm4v(model: Any) -> Processor:
    config = model.config
    marks = {
        "<|image|>": config.image_token_id,
        "<|video|>": config.video_token_id,
        "<|begin_of_image|>": config.image_start_token_id,
        "<|end_of_image|>": config.image_end_token_id,
    }
    sizes = {"patch_size": 8, "merge_size": 2, "size": PACKED}
    sizes |= {"temporal_patch_size": config.vision_config.temporal_patch_size}
    tokens = words(marks, image_token="<|image|>", video_token="<|video|>")
    return hf.Glm4vProcessor(hf.Glm4vImageProcessor(**sizes), tokens, hf.Glm4vVideoProcessor(**sizes))


def _idefics3(_model: Any) -> Processor:
    marks = ("<fake_token_around_image>", "<end_of_utterance>", "<global-img>", "<row_1_col_1>")
    longest = {"longest_edge": SIDE}
    images = hf.Idefics3ImageProcessor(size=longest, max_image_size=longest, do_image_splitting=False)
    return hf.Idefics3Processor(images, words(numbered("<image>", *marks)), image_seq_len=4)


def _gemma3(model: Any) -> Processor:
    marks = {"<image>": IMAGE, "<boi>": model.config.boi_token_index, "<eoi>": model.config.eoi_token_index}
    tokens = words(marks, image_token="<image>", boi_token="<boi>", eoi_token="<eoi>")
    return hf.Gemma3Processor(hf.Gemma3ImageProcessor(size=SQUARE), tokens, image_seq_length=4)


def _paligemma(_model: Any) -> Processor:
    images = _counted(hf.SiglipImageProcessor(size=SQUARE), 16)
    return hf.PaliGemmaProcessor(images, words(numbered("<image>"), image_token="<image>"))


def _mllama(model: Any) -> Processor:
    tokens = words({"<|image|>": model.config.image_token_index}, image_token="<|image|>")
    return hf.MllamaProcessor(hf.MllamaImageProcessor(size=SQUARE, max_image_tiles=2), tokens)


def _internvl(_model: Any) -> Processor:
    tokens = words(
        numbered("<IMG_CONTEXT>", "<img>", "</img>", "<video>"),
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    images = hf.GotOcr2ImageProcessor(size=SQUARE, crop_to_patches=False)
    return hf.InternVLProcessor(images, tokens, hf.InternVLVideoProcessor(size=SQUARE), image_seq_length=4)


def _mistral3(_model: Any) -> Processor:
    images = hf.PixtralImageProcessor(size={"longest_edge": SIDE}, patch_size={"height": 8, "width": 8})
    tokens = words(numbered("[IMG]", "[IMG_BREAK]", "[IMG_END]"))
    return hf.PixtralProcessor(images, tokens, patch_size=8, spatial_merge_size=2)


def _lfm2_vl(_model: Any) -> Processor:
    images = hf.Lfm2VlImageProcessor(
        encoder_patch_size=8,
        downsample_factor=2,
        do_image_splitting=False,
        min_image_tokens=4,
        max_image_tokens=4,
        max_num_patches=16,
        tile_size=SIDE,
    )
    tokens = words(
        numbered("<image>", "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>"),
        image_token="<image>",
        image_start_token="<|image_start|>",
        image_end_token="<|image_end|>",
        image_thumbnail="<|img_thumbnail|>",
    )
    return hf.Lfm2VlProcessor(images, tokens)


def _git(_model: Any) -> Processor:
    return hf.GitProcessor(_clip_images(), words())


def _florence2(_model: Any) -> Processor:
    images = _counted(_clip_images(size=SQUARE), 17)
    tokens = words(numbered("<image>"), image_token="<image>")
    return hf.Florence2Processor(images, tokens, num_additional_image_tokens=1)


def _janus(_model: Any) -> Processor:
    tokens = words(
        numbered("<image_placeholder>", "<begin_of_image>", "<end_of_image>"),
        image_token="<image_placeholder>",
        boi_token="<begin_of_image>",
        eoi_token="<end_of_image>",
    )
    return hf.JanusProcessor(hf.JanusImageProcessor(size=SQUARE, min_size=8), tokens, num_image_tokens=16)


def _deepseek_vl(_model: Any) -> Processor:
    tokens = words(numbered("<image_placeholder>"), image_token="<image_placeholder>")
    images = hf.DeepseekVLImageProcessor(size=SQUARE, min_size=8)
    return hf.DeepseekVLProcessor(images, tokens, num_image_tokens=16)


def _aya_vision(_model: Any) -> Processor:
    marks = ("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<image>", "<|IMG_LINE_BREAK|>", "TILE_GLOBAL")
    images = hf.GotOcr2ImageProcessor(size=SQUARE, crop_to_patches=False)
    tokens = words(numbered("<|IMG_PATCH|>", *marks))
    return hf.AyaVisionProcessor(images, tokens, patch_size=8, img_size=SIDE, downsample_factor=2)


def _ovis2(_model: Any) -> Processor:
    marks = ("<image>", "<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")
    tokens = words(numbered("<IMG_ATOM>", *marks))
    return hf.Ovis2Processor(hf.Ovis2ImageProcessor(size=SQUARE), tokens, image_seq_length=4)


def _pix2struct(_model: Any) -> Processor:
    """Its patches are of 16 pixels: the tiny config keeps the default's 768 numbers for each."""
    images = hf.Pix2StructImageProcessor(patch_size={"height": 16, "width": 16}, max_patches=16)
    return hf.Pix2StructProcessor(images, words(end=True))


def _trocr(_model: Any) -> Processor:
    return hf.TrOCRProcessor(hf.ViTImageProcessor(size=SQUARE), words())


PROCESSORS: dict[str, Callable[[Any], Processor]] = {
    "aya_vision": _aya_vision,
    "blip": _blip,
    "blip-2": _blip2,
    "deepseek_vl": _deepseek_vl,
    "florence2": _florence2,
    "gemma3": _gemma3,
    "git": _git,
    "glm4v": _glm4v,
    "idefics3": _idefics3,
    "instructblip": _instructblip,
    "internvl": _internvl,
    "janus": _janus,
    "lfm2_vl": _lfm2_vl,
    "llava": _llava,
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
    "mistral3": _mistral3,
    "mllama": _mllama,
    "ovis2": _ovis2,
    "paligemma": _paligemma,
    "pix2struct": _pix2struct,
    "qwen2_5_vl": _qwen("Qwen2_5_VLProcessor"),
    "qwen2_vl": _qwen("Qwen2VLProcessor"),
    "qwen3_vl": _qwen("Qwen3VLProcessor"),
    "qwen3_vl_moe": _qwen("Qwen3VLProcessor"),
    "trocr": _trocr,
    "vipllava": _llava,
    "vision-encoder-decoder": _trocr,
    "vit_gpt2": _trocr,
}
ENCODERS = {
    "vision-text-dual-encoder": "two_models",
    "blip_retrieval": "blip",
    "blip-2_retrieval": "blip2",
    **{name: name for name in ("altclip", "chinese_clip", "clip", "colpali", "colqwen2", "metaclip_2")},
    **{name: name for name in ("owlvit", "siglip", "siglip2")},
}
"""Families by the names that `tests/dual` has for them."""
PROCESSED = (*PROCESSORS, *ENCODERS)


def processed(family: str) -> tuple[hf.PreTrainedModel, Processor]:
    """A family's tiny model and its processor. Raises ImportError, or what transformers raises in its place, where
    the processor wants torchvision and there is none."""
    if family in ENCODERS:
        return DUAL[ENCODERS[family]]()
    model = build(family)
    return model, PROCESSORS[family](model)
