"""The two embedded architectures: configs, tokenizer and processors, before any training.

`embedded`: InstructBLIP (ViT + instruction-aware Q-Former + T5). `embedded-llava`: LLaVA (CLIP ViT + MLP + Llama).
Both stay under 10 M parameters, most of them in the language model, and every prunable width is a multiple of 64.
"""

from functools import cache
from typing import Any, cast

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    BlipImageProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    T5Config,
)

from ressa.data.prompts import CAPTION, QUESTION
from ressa.embedded.captions import captions
from ressa.embedded.catalog import things
from ressa.embedded.questions import questions
from ressa.embedded.scenes import CANVAS, sample_scene

PATCH = 14  # px
QUERIES = 32  # tokens that the Q-Former hands to the language model
PAD, END, UNKNOWN, IMAGE = "<pad>", "</s>", "<unk>", "<image>"


@cache
def vocabulary() -> dict[str, int]:
    """Word → id: special tokens, then every word that names, questions and captions use, in alphabetical order."""
    texts = [CAPTION, QUESTION.format("")]
    texts += [text for thing in things() for text in (thing.name, thing.plural, thing.category)]
    for index in range(3000):
        scene = sample_scene("train", index)
        texts += captions(scene)
        texts += [text for question in questions(scene) for text in (question.text, question.answer)]
    split = _splitter()
    words = {word for text in texts for word, _ in split.pre_tokenize_str(text.lower())}
    return {word: number for number, word in enumerate([PAD, END, UNKNOWN, IMAGE, *sorted(words)])}


def _splitter() -> pre_tokenizers.PreTokenizer:
    """Words as people write them ("t-shirt" is one), punctuation marks apart."""
    return pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[?,.:;!]"), behavior="isolated")]
    )


def build_tokenizer(**special: Any) -> PreTrainedTokenizerFast:
    """A lower-case word-level tokenizer."""
    tokenizer = Tokenizer(models.WordLevel(vocabulary(), unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = _splitter()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=256,
        **special,
    )


def build(name: str) -> tuple[Any, Any]:
    """(untrained model, processor) of `embedded` or `embedded-llava`; weights drawn from torch's global generator."""
    return {"embedded": _instructblip, "embedded-llava": _llava}[name]()


def _instructblip() -> tuple[Any, Any]:
    # InstructBlipProcessor adds <image> itself and stumbles over a tokenizer that has it as an attribute.
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": [IMAGE]})
    image_token = cast(int, tokenizer.convert_tokens_to_ids(IMAGE))
    config = InstructBlipConfig(
        vision_config=InstructBlipVisionConfig(
            hidden_size=192,
            intermediate_size=640,
            num_hidden_layers=6,
            num_attention_heads=6,
            image_size=CANVAS,
            patch_size=PATCH,
            qkv_bias=True,
            initializer_range=0.02,  # the default, 1e-10, is for loading weights, not for learning them
        ).to_dict(),
        qformer_config=InstructBlipQFormerConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=256,
            max_position_embeddings=64,
            cross_attention_frequency=1,
            encoder_hidden_size=192,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pad_token_id=tokenizer.pad_token_id,
        ).to_dict(),
        text_config=T5Config(
            vocab_size=len(tokenizer),
            d_model=256,
            d_kv=32,
            d_ff=512,
            num_layers=4,
            num_decoder_layers=4,
            num_heads=8,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=False,  # type: ignore[call-arg]
        ).to_dict(),
        num_query_tokens=QUERIES,
        image_token_index=image_token,
    )
    model = InstructBlipForConditionalGeneration(config)
    torch.nn.init.normal_(model.query_tokens, std=0.02)
    processor = InstructBlipProcessor(
        image_processor=BlipImageProcessor(**_pixels(height=CANVAS, width=CANVAS)),
        tokenizer=tokenizer,
        qformer_tokenizer=build_tokenizer(),
        num_query_tokens=QUERIES,
    )
    return model, processor


def _llava() -> tuple[Any, Any]:
    tokenizer = build_tokenizer(extra_special_tokens={"image_token": IMAGE})
    image_token = cast(int, tokenizer.convert_tokens_to_ids(IMAGE))
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=192,
            intermediate_size=640,
            num_hidden_layers=6,
            num_attention_heads=6,
            image_size=CANVAS,
            patch_size=PATCH,
            projection_dim=192,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=256,
            intermediate_size=640,
            num_hidden_layers=8,
            num_attention_heads=8,
            num_key_value_heads=8,
            max_position_embeddings=256,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            tie_word_embeddings=False,
        ),
        image_token_index=image_token,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=(CANVAS // PATCH) ** 2,
        tie_word_embeddings=False,
    )
    model = LlavaForConditionalGeneration(config)
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(
            **_pixels(height=CANVAS, width=CANVAS),
            do_center_crop=False,
            crop_size={"height": CANVAS, "width": CANVAS},
        ),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE,
    )
    return model, processor


def _pixels(**size: int) -> dict:
    return {"size": size, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_resize": True}
