"""Tiny VLMs whose processors differ in every way the batcher has to find out."""

from typing import Any

import transformers as hf

from tests.data.vlms import (
    IMAGE_SIZE,
    LANGUAGE,
    QUERIES,
    SQUARE,
    image_token_id,
    qformer,
    spread,
    tokenizer,
    vision,
)

LLAMA: dict[str, Any] = {
    **LANGUAGE,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
}
BLIP_TEXT: dict[str, Any] = {
    **LANGUAGE,
    "hidden_size": 32,
    "encoder_hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "sep_token_id": 2,
}
GRID = [[IMAGE_SIZE, 2 * IMAGE_SIZE], [2 * IMAGE_SIZE, IMAGE_SIZE], [2 * IMAGE_SIZE, 2 * IMAGE_SIZE]]


def blip2() -> tuple[hf.PreTrainedModel, hf.ProcessorMixin]:
    """Decoder-only OPT behind a Q-Former; the processor writes the image tokens."""
    text = hf.OPTConfig(
        **LANGUAGE,
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        word_embed_proj_dim=32,
    )
    config = hf.Blip2Config(
        vision_config=hf.Blip2VisionConfig(**vision()).to_dict(),
        qformer_config=qformer(hf.Blip2QFormerConfig).to_dict(),
        text_config=text.to_dict(),
        num_query_tokens=QUERIES,
        image_token_index=image_token_id(),
    )
    processor = hf.Blip2Processor(hf.BlipImageProcessor(size=SQUARE), tokenizer(), num_query_tokens=QUERIES)
    return spread(hf.Blip2ForConditionalGeneration(config)), processor


def instructblip_llama() -> tuple[hf.PreTrainedModel, hf.ProcessorMixin]:
    """InstructBLIP on a decoder-only language model (Vicuna)."""
    config = hf.InstructBlipConfig(
        vision_config=hf.InstructBlipVisionConfig(**vision()),
        qformer_config=qformer(hf.InstructBlipQFormerConfig),
        text_config=hf.LlamaConfig(**LLAMA),
        num_query_tokens=QUERIES,
        image_token_index=image_token_id(),
    )
    processor = hf.InstructBlipProcessor(
        hf.BlipImageProcessor(size=SQUARE),
        tokenizer(),
        qformer_tokenizer=tokenizer(),
        num_query_tokens=QUERIES,
    )
    return spread(hf.InstructBlipForConditionalGeneration(config)), processor


def paligemma() -> tuple[hf.PreTrainedModel, hf.ProcessorMixin]:
    """Its prompt attends both ways and its answer causally, told apart by token types."""
    config = hf.PaliGemmaConfig(
        vision_config=hf.SiglipVisionConfig(**vision(), vision_use_head=False),
        text_config=hf.GemmaConfig(**LLAMA, head_dim=16),
        image_token_index=image_token_id(),
        projection_dim=32,
        hidden_size=32,
    )
    images = hf.SiglipImageProcessor(size=SQUARE)
    images.image_seq_length = 16
    processor = hf.PaliGemmaProcessor(images, tokenizer(image_token=True))
    return spread(hf.PaliGemmaForConditionalGeneration(config)), processor


def llava_next() -> tuple[hf.PreTrainedModel, hf.ProcessorMixin]:
    """An image's size decides how many tokens it has."""
    config = hf.LlavaNextConfig(
        vision_config=hf.CLIPVisionConfig(**vision()),
        text_config=hf.LlamaConfig(**LLAMA),
        image_token_id=image_token_id(),
        image_grid_pinpoints=GRID,
    )
    images = hf.LlavaNextImageProcessor(
        size={"shortest_edge": IMAGE_SIZE}, crop_size=SQUARE, image_grid_pinpoints=GRID
    )
    processor = hf.LlavaNextProcessor(
        images,
        tokenizer(image_token=True),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return spread(hf.LlavaNextForConditionalGeneration(config)), processor


def blip() -> tuple[hf.PreTrainedModel, hf.ProcessorMixin]:
    """The image is no part of the text: the decoder attends to it across."""
    config = hf.BlipConfig(text_config=BLIP_TEXT, vision_config=vision())
    processor = hf.BlipProcessor(hf.BlipImageProcessor(size=SQUARE), tokenizer(end_token=True))
    return spread(hf.BlipForConditionalGeneration(config)), processor


MORE = {
    "blip2": blip2,
    "instructblip-llama": instructblip_llama,
    "paligemma": paligemma,
    "llava-next": llava_next,
    "blip": blip,
}
