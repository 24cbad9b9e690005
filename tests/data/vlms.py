"""Two tiny VLMs with their real processors, built in code: InstructBLIP on T5 and LLaVA on Llama."""

from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

TEXT = """
    <pad> <s> </s> <unk> <image> : ? . , question short answer a description what is in the picture how many
    there red blue cat dog bird car tree house left right of on under two one three yes no and with has near
    it image shows you see can
"""
WORDS = TEXT.split()
IMAGE_SIZE = 32
SQUARE = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
QUERIES = 4
LANGUAGE = {"vocab_size": len(WORDS), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def tokenizer(end_token: bool = False, image_token: bool = False) -> hf.PreTrainedTokenizerFast:
    """Word-level, lower-case; `end_token` appends </s> to every text, as T5's does."""
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    if end_token:
        core.post_processor = processors.TemplateProcessing(
            single="$A </s>", pair="$A $B </s>", special_tokens=[("</s>", 2)]
        )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        # InstructBlipProcessor adds the image token itself and cannot take one that the tokenizer declares.
        extra_special_tokens={"image_token": "<image>"} if image_token else {},
    )


def vision() -> dict:
    return {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": IMAGE_SIZE,
        "patch_size": 8,
    }


def qformer(kind: type[hf.PreTrainedConfig], **more: Any) -> hf.PreTrainedConfig:
    return kind(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        encoder_hidden_size=32,
        cross_attention_frequency=1,
        max_position_embeddings=64,
        **more,
    )


def image_token_id() -> int:
    return WORDS.index("<image>")


def spread(model: hf.PreTrainedModel) -> hf.PreTrainedModel:
    """Weights large enough that images and words matter to the outputs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.15)
    return model.float().eval()


def instructblip() -> tuple[hf.PreTrainedModel, hf.ProcessorMixin]:
    """Encoder-decoder; its processor writes the image tokens and has a tokenizer for the Q-Former."""
    text = hf.T5Config(
        **LANGUAGE,
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=2,
        decoder_start_token_id=0,
    )
    config = hf.InstructBlipConfig(
        vision_config=hf.InstructBlipVisionConfig(**vision()),
        qformer_config=qformer(hf.InstructBlipQFormerConfig),
        text_config=text,
        num_query_tokens=QUERIES,
        image_token_index=image_token_id(),
    )
    images = hf.BlipImageProcessor(size=SQUARE)
    processor = hf.InstructBlipProcessor(
        images,
        tokenizer(end_token=True),
        qformer_tokenizer=tokenizer(),
        num_query_tokens=QUERIES,
    )
    return spread(hf.InstructBlipForConditionalGeneration(config)), processor


def llava() -> tuple[hf.PreTrainedModel, hf.ProcessorMixin]:
    """Decoder-only; its processor expands the placeholder that the prompt holds."""
    text = hf.LlamaConfig(
        **LANGUAGE,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
    )
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**vision()),
        text_config=text,
        image_token_id=image_token_id(),
    )
    images = hf.CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=SQUARE)
    processor = hf.LlavaProcessor(
        images,
        tokenizer(image_token=True),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return spread(hf.LlavaForConditionalGeneration(config)), processor


VLMS = {"instructblip": instructblip, "llava": llava}
