"""Tiny dual encoders with their real processors, built in code."""

from collections.abc import Callable
from typing import Any

import transformers as hf
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from tests.data.vlms import IMAGE_SIZE, QUERIES, SQUARE, TEXT, qformer, spread, vision

WORDS = [
    *TEXT.split(),
    "<|image_pad|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|im_start|>",
    "<|im_end|>",
    "user",
]
WORDS += ["<|endoftext|>", "describe", "query", "<bos>", "\n"]
# CLIP takes an end token of 2 for a sign of old configs, and then looks for the largest id.
WORDS[2], WORDS[3] = WORDS[3], WORDS[2]
IDS = {word: index for index, word in enumerate(WORDS)}
LENGTH = 32
Built = tuple[hf.PreTrainedModel, Any]

TEXT_TOWER: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": LENGTH,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": IDS["</s>"],
    "projection_dim": 32,
}
DECODER: dict[str, Any] = {**TEXT_TOWER, "num_key_value_heads": 1, "max_position_embeddings": 256}


def words(
    masked: bool = True, image_token: str | None = None, begin: bool = False
) -> hf.PreTrainedTokenizerFast:
    """Word by word, lower case, each text ended by </s>. masked: whether it makes attention masks."""
    core = Tokenizer(models.WordLevel(IDS, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if image_token is None:
        single = "<s> $A </s>" if begin else "$A </s>"
        core.post_processor = processors.TemplateProcessing(
            single=single, pair=f"{single} $B", special_tokens=[("<s>", 1), ("</s>", IDS["</s>"])]
        )
    made = hf.PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=LENGTH if image_token is None else 256,
        model_input_names=["input_ids", "attention_mask"] if masked else ["input_ids"],
        extra_special_tokens={"image_token": image_token} if image_token else {},
    )
    return made


def _clip_images() -> Any:
    return hf.CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=SQUARE)


def _like_clip(model: Any, config: Any, **text: Any) -> Built:
    made = config(
        text_config={**TEXT_TOWER, **text}, vision_config=vision() | {"projection_dim": 32}, projection_dim=32
    )
    return spread(model(made)), hf.CLIPProcessor(_clip_images(), words(begin=True))


def clip() -> Built:
    return _like_clip(hf.CLIPModel, hf.CLIPConfig)


def metaclip_2() -> Built:
    return _like_clip(hf.MetaClip2Model, hf.MetaClip2Config)


def chinese_clip() -> Built:
    """Its text tower is BERT's."""
    model, _ = _like_clip(hf.ChineseCLIPModel, hf.ChineseCLIPConfig)
    return model, hf.ChineseCLIPProcessor(_clip_images(), words(begin=True))


def altclip() -> Built:
    """Its text tower is XLM-RoBERTa's, behind a projection."""
    model, _ = _like_clip(
        hf.AltCLIPModel, hf.AltCLIPConfig, project_dim=32, max_position_embeddings=LENGTH + 2
    )
    return model, hf.AltCLIPProcessor(_clip_images(), words(begin=True))


def owlvit() -> Built:
    images = hf.OwlViTImageProcessor(size=SQUARE, crop_size=SQUARE)
    model, _ = _like_clip(hf.OwlViTModel, hf.OwlViTConfig)
    return model, hf.OwlViTProcessor(images, words(begin=True))


def two_models() -> Built:
    """A vision model and a text model of any kinds, joined."""
    text = {key: value for key, value in TEXT_TOWER.items() if key != "projection_dim"}
    config = hf.VisionTextDualEncoderConfig.from_vision_text_configs(
        hf.ViTConfig(**vision()), hf.BertConfig(**text), projection_dim=32
    )
    return spread(hf.VisionTextDualEncoderModel(config)), hf.VisionTextDualEncoderProcessor(
        hf.ViTImageProcessor(size=SQUARE), words(begin=True)
    )


def siglip() -> Built:
    """Texts have no attention mask and are padded to their full length."""
    config = hf.SiglipConfig(text_config={**TEXT_TOWER, "projection_size": 32}, vision_config=vision())
    return spread(hf.SiglipModel(config)), hf.SiglipProcessor(
        hf.SiglipImageProcessor(size=SQUARE), words(masked=False)
    )


def siglip2() -> Built:
    """Pictures of any shape, as patches."""
    eye = {key: value for key, value in vision().items() if key != "image_size"}
    eye |= {"num_patches": 256, "patch_size": 16}  # as its processor has it
    text = {**TEXT_TOWER, "projection_size": 32, "max_position_embeddings": 64}
    config = hf.Siglip2Config(text_config=text, vision_config=eye)
    tokens = words(masked=False)
    tokens.model_max_length = 64
    images = hf.Siglip2ImageProcessor()
    return spread(hf.Siglip2Model(config)), hf.Siglip2Processor(images, tokens)


def blip() -> Built:
    text = {**TEXT_TOWER, "encoder_hidden_size": 32, "sep_token_id": IDS["</s>"]}
    config = hf.BlipConfig(text_config=text, vision_config=vision(), image_text_hidden_size=16)
    return spread(hf.BlipForImageTextRetrieval(config)), hf.BlipProcessor(
        hf.BlipImageProcessor(size=SQUARE), words(begin=True)
    )


def blip2() -> Built:
    former = qformer(hf.Blip2QFormerConfig, use_qformer_text_input=True).to_dict() | {
        "vocab_size": len(WORDS)
    }
    config = hf.Blip2Config(
        vision_config=hf.Blip2VisionConfig(**vision()).to_dict(),
        qformer_config=former,
        text_config=hf.OPTConfig(vocab_size=len(WORDS)).to_dict(),
        num_query_tokens=QUERIES,
        image_text_hidden_size=16,
        image_token_index=IDS["<image>"],
    )
    processor = hf.Blip2Processor(hf.BlipImageProcessor(size=SQUARE), words(), num_query_tokens=QUERIES)
    return spread(hf.Blip2ForImageTextRetrieval(config)), processor


def colpali() -> Built:
    """Late interaction over PaliGemma."""
    tokens = words(image_token="<image>")
    images = hf.SiglipImageProcessor(size=SQUARE)
    images.image_seq_length = 16
    processor = hf.ColPaliProcessor(
        images, tokens, visual_prompt_prefix="describe the image .", query_prefix="question : "
    )
    text = {**DECODER, "vocab_size": len(processor.tokenizer), "head_dim": 16, "bos_token_id": 1}
    language = hf.PaliGemmaConfig(
        vision_config=hf.SiglipVisionConfig(**vision(), vision_use_head=False, projection_dim=32).to_dict(),
        text_config=hf.GemmaConfig(**text).to_dict(),
        image_token_index=IDS["<image>"],
        projection_dim=32,
    )
    config = hf.ColPaliConfig(vlm_config=language.to_dict(), embedding_dim=16)
    return spread(hf.ColPaliForRetrieval(config)), processor


def colqwen2() -> Built:
    """Late interaction over Qwen2-VL: pictures of any size, packed."""
    eye = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 8}
    eye |= {"spatial_merge_size": 2, "temporal_patch_size": 2}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    language = hf.Qwen2VLConfig(
        vision_config=eye,
        text_config={**DECODER, "rope_parameters": rope},
        image_token_id=IDS["<|image_pad|>"],
        vision_start_token_id=IDS["<|vision_start|>"],
        vision_end_token_id=IDS["<|vision_end|>"],
    )
    config = hf.ColQwen2Config(vlm_config=language.to_dict(), embedding_dim=16)
    images = hf.Qwen2VLImageProcessor(
        patch_size=8, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 256, "longest_edge": 4096}
    )
    prompt = "<|im_start|> user <|vision_start|> <|image_pad|> <|vision_end|> describe the image . <|im_end|>"
    processor = hf.ColQwen2Processor(
        images, words(image_token="<|image_pad|>"), visual_prompt_prefix=prompt, query_prefix="query : "
    )
    return spread(hf.ColQwen2ForRetrieval(config)), processor


DUAL: dict[str, Callable[[], Built]] = {
    "clip": clip,
    "metaclip_2": metaclip_2,
    "chinese_clip": chinese_clip,
    "altclip": altclip,
    "owlvit": owlvit,
    "two_models": two_models,
    "siglip": siglip,
    "siglip2": siglip2,
    "blip": blip,
    "blip2": blip2,
    "colpali": colpali,
    "colqwen2": colqwen2,
}
