"""What a family's tiny config needs beside the rules: dotted paths into it, and why.

A family may stand in several rows; the later ones win.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MARK = 100  # `zoo.configs.IMAGE`
WORDS = 70  # the first word of a codebook for pictures: no text of `zoo.inputs` has it
SAM = {"output_channels": 16, "window_size": 2, "global_attn_indexes": [1], "mlp_dim": 64}
SAM_64 = {**SAM, "image_size": 64}
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 1e4}


@dataclass
class Exceptional:
    """values: by dotted paths. reasons: one a row of the table."""

    values: dict[str, Any] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)


EXCEPTIONS: dict[str, Exceptional] = {}
# Parts that a default config leaves out: where they go, and what they are.
PARTS = {
    "gemma4": {"vision_config": "gemma4_vision"},
    "gemma4_unified": {"vision_config": "gemma4_unified_vision"},
    "embedding_gemma2": {"vision_config": "gemma4_vision"},
    "colpali": {"vlm_config": "paligemma"},
    "colqwen2": {"vlm_config": "qwen2_vl"},
    "vit_gpt2": {"encoder": "vit", "decoder": "gpt2"},
    "trocr": {"encoder": "deit", "decoder": "trocr"},
    "donut": {"encoder": "donut-swin", "decoder": "mbart"},
}


def _row(families: str, reason: str, values: Mapping[str, Any], under: str = "") -> None:
    for family in families.split():
        found = EXCEPTIONS.setdefault(family, Exceptional())
        found.values |= {f"{under}.{key}" if under else key: value for key, value in values.items()}
        found.reasons.append(reason)


# Rotary axes: defaults name none, or ones that fill another share of a head of 16.
_SECTIONS = "text_config.rope_parameters.mrope_section"
_row(
    "glm46v glm4v glm_ocr glmga paddleocr_vl qwen2_vl qwen2_5_vl",
    "its default names no sections",
    {_SECTIONS: [2, 3, 3]},
)
_row("glm4v_moe", "it turns half of a head", {_SECTIONS: [1, 1, 2]})
_row("ernie4_5_vl_moe", "height and width share their sections alike", {_SECTIONS: [3, 3, 2]})
_row("hunyuan_vl", "four axes", {_SECTIONS: [2, 2, 2, 2], "text_config.head_dim": 16})
_row(
    "qwen2_5_omni_thinker qwen3_omni_moe_thinker",
    "its default has no rotary parameters for images, and its audio tower widths of its own",
    {
        "text_config.rope_parameters": {**PLAIN_ROPE, "mrope_section": [2, 3, 3]},
        "vision_start_token_id": 110,
        "vision_end_token_id": 111,
        "audio_config.n_window": 8,
        "audio_config.downsample_hidden_size": 16,
    },
)
_row(
    "cohere_compass",
    "its kinds of layers have rotary parameters each",
    {
        "text_config.rope_parameters": {
            kind: {**PLAIN_ROPE, "mrope_section": [2, 3, 3]}
            for kind in ("full_attention", "sliding_attention")
        }
    },
)
_row(
    "mistral_large4",
    "long contexts",
    {"original_max_position_embeddings": 64, "factor": 4.0},
    "text_config.rope_parameters",
)
_row("mllama", "its default asks for Llama 3's scaling", {"text_config.rope_parameters": PLAIN_ROPE})

# Attention: heads of other counts and sizes, sparse and linear attention.
_row(
    "mistral_large4",
    "indexed attention",
    {"index_topk": 8, "index_n_heads": 2, "head_dim": 8, "num_key_value_heads": 2},
    "text_config",
)
_row(
    "kimi_k25", "latent attention, all heads alike", {"num_key_value_heads": 2, "head_dim": 8}, "text_config"
)
_row("kimi_k25", "the width of the merged patches", {"projection_hidden_size": 32})
_row(
    "dots3_note",
    "latent attention, all heads alike",
    {"num_key_value_heads": 2, "head_dim": 24},
    "text_config",
)
_row(
    "dots3_note",
    "adapters and audio have widths of their own",
    {
        "vision_config.adapter_in_dim": 32,
        "vision_config.adapter_out_dim": 32,
        "audio_config.num_key_value_heads": 2,
        "audio_config.adapter_input_size": 32,
        "audio_config.adapter_out_dim": 32,
        "audio_config.downsample_hidden_size": 16,
    },
)
_row(
    "glm5_next",
    "indexed and linear attention, nothing rotated",
    {
        "num_key_value_heads": 2,
        "qk_rope_head_dim": 0,
        "qk_head_dim": 16,
        "index_topk": 8,
        "index_kpool": 4,
        "index_n_heads": 2,
        "linear_head_dim": 16,
        "linear_num_heads": 2,
    },
    "text_config",
)
_LINEAR_ATTENTION = {
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
_row(
    "qwen3_5 qwen3_5_moe qwen4_exp minicpmv4_6 minicpmv4_7 minicpm_ocr",
    "linear attention has heads of its own",
    _LINEAR_ATTENTION,
    "text_config",
)
_row(
    "qwen4_exp",
    "an indexer with heads of its own",
    {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 8,
        "indexer_compress_ratio": 4,
    }
    | {"hc_lowrank": 16, "ple_embed_dim": 32},
    "text_config",
)
_row(
    "gemma4 gemma4_unified diffusion_gemma step3p7",
    "windows shorter than the text",
    {"text_config.sliding_window": 8},
)
_row(
    "step3p7",
    "sliding layers have heads of their own",
    {"text_config.num_attention_heads": 4, "vision_config.mlp_ratio": 2.0},
)
_row(
    "mllama",
    "cross-attention in every second layer, two chains of vision blocks",
    {
        "text_config.num_hidden_layers": 4,
        "text_config.cross_attention_layers": [1, 3],
        "vision_config.num_hidden_layers": 3,
        "vision_config.num_global_layers": 2,
        "vision_config.attention_heads": 2,
        "vision_config.vision_output_dim": 96,
        "vision_config.intermediate_layers_indices": [0, 1],
        "vision_config.max_num_tiles": 2,
        "vision_config.supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
    },
)

# Experts.
_row(
    "deepseek_ocr2 unlimited_ocr",
    "one layer without experts, one with",
    {
        "num_hidden_layers": 2,
        "num_experts_per_tok": 2,
        "mlp_layer_types": ["dense", "sparse"],
        "layer_types": None,
    },
    "text_config",
)
_row(
    "ernie4_5_vl_moe",
    "experts for text and for images",
    {"moe_intermediate_size": [64, 32], "mlp_layer_types": ["dense", "sparse"], "num_hidden_layers": 2},
    "text_config",
)
_row("muse_spark", "experts have a width of their own", {"text_config.moe_hidden_size": 32})
_row(
    "diffusion_gemma",
    "its default has no experts",
    {
        "text_config.num_experts": 4,
        "text_config.top_k_experts": 2,
        "text_config.moe_intermediate_size": 64,
        "canvas_length": 8,
    },
)

# Towers that see pictures in their own way.
_row(
    "deepseek_ocr2 unlimited_ocr",
    "a SAM before the vision tower",
    {**SAM, "downsample_channels": [32, 32]},
    "vision_config.sam_config",
)
_row("got_ocr2 pp_chart2table", "a SAM as vision tower", SAM_64, "vision_config")
_row(
    "pp_formulanet",
    "a SAM as vision tower, and convolutions after it",
    {
        **SAM_64,
        "post_conv_in_channels": 16,
        "post_conv_mid_channels": 32,
        "post_conv_out_channels": 32,
        "decoder_hidden_size": 32,
    },
    "vision_config",
)
_row(
    "deepseek_vl_hybrid",
    "a SAM beside the vision tower",
    {**SAM_64, "num_pos_feats": 8},
    "high_res_vision_config",
)
_row(
    "florence2",
    "stages",
    {
        "embed_dim": [16, 32],
        "depths": [1, 2],
        "num_heads": [2, 2],
        "num_groups": [2, 2],
        "patch_size": [4, 2],
        "patch_stride": [4, 2],
        "patch_padding": [1, 0],
        "patch_prenorm": [False, True],
        "window_size": 2,
        "projection_dim": 32,
    },
    "vision_config",
)
_row(
    "aria",
    "queries for pictures of 16 patches",
    {"projector_patch_to_query_dict": {16: 4}, "max_value_projector_patch_to_query_dict": 4},
)
_row("gemma3 shieldgemma2 t5gemma2", "pictures of 16 patches", {"mm_tokens_per_image": 4})
_row(
    "t5gemma2",
    "the encoder has them, too",
    {"encoder.mm_tokens_per_image": 4, "image_token_index": MARK, "encoder.image_token_index": MARK},
)
_row(
    "llava_next llava_next_video llava_onevision",
    "tiles of 32 pixels",
    {"image_grid_pinpoints": [[32, 32], [32, 64], [64, 32], [64, 64]]},
)
_row(
    "granite4_vision",
    "tiles, and Q-Formers at two depths",
    {
        "image_grid_pinpoints": [[32, 32], [32, 64], [64, 32]],
        "deepstack_layer_map": [[-2, 0]],
        "spatial_target_layers": [1],
        "downsample_rate": "2/4",
        "vision_config.hidden_size": 64,
        "qformer_config.hidden_size": 64,
        "qformer_config.encoder_hidden_size": 64,
    },
)
_row(
    "hunyuan_vl",
    "pictures of 16 patches",
    {"max_image_size": 64, "min_image_size": 16, "img_max_token_num": 64, "max_vit_seq_len": 256},
    "vision_config",
)
_row("glm5_next", "a narrow projector", {"vision_config.projection_intermediate_size": 64})
_row(
    "muse_spark muse_glimmer",
    "a small table of positions; four patches make a token",
    {"vision_config.pos_emb_height": 4, "vision_config.pos_emb_width": 4, "out_hidden_size": 128},
)
_row(
    "muse_spark",
    "an audio tower in stages",
    {
        "patch_sizes": [4, 2],
        "hidden_sizes": [16, 32],
        "depths": [1, 1],
        "num_hidden_layers": 2,
        "out_hidden_size": 32,
    },
    "audio_config",
)
_row("llama4", "pixels shuffled to tokens", {"vision_config.intermediate_size": 128})
_row(
    "janus",
    "its picture generator, which stays dense",
    {
        "vision_config.num_image_tokens": 16,
        "vision_config.mlp_ratio": 2.0,
        "vq_config.embed_dim": 8,
        "vq_config.num_embeddings": 16,
        "vq_config.latent_channels": 8,
        "vq_config.base_channels": 32,
        "vq_config.channel_multiplier": [1, 1],
        "vq_config.num_res_blocks": 1,
        "vq_config.image_token_embed_dim": 32,
        "vq_config.num_patches": 16,
    },
)
_row("kosmos-2 kosmos-2.5", "its own names for sizes", {"text_config.embed_dim": 32, "latent_query_num": 4})
_row(
    "idefics",
    "a resampler, and cross-attention in every layer",
    {
        "use_resampler": True,
        "resampler_n_latents": 4,
        "resampler_depth": 2,
        "resampler_n_heads": 2,
        "resampler_head_dim": 16,
    },
    "perceiver_config",
)
_row(
    "idefics",
    "all of its vocabulary can be trained",
    {"use_resampler": True, "additional_vocab_size": 0, "num_hidden_layers": 4, "cross_layer_interval": 2},
)
_row(
    "ovis2",
    "a vocabulary of visual words",
    {"vision_config.hidden_stride": 2, "vision_config.vocab_size": 64, "vocab_size": 128, "hidden_size": 32},
)
_row("instructblip instructblipvideo blip-2", "its default has no image token", {"image_token_index": MARK})
_row("instructblipvideo", "its default has no video token", {"video_token_index": MARK})
_row(
    "minicpmv4_6 minicpmv4_7 minicpm_ocr",
    "tokens merged after the first block",
    {"image_token_id": MARK, "video_token_id": 101, "insert_layer_id": 0, "vision_config.insert_layer_id": 0},
)
_row(
    "lfm2_vl",
    "pictures of 16 patches",
    {
        "vision_config.num_patches": 16,
        "text_config.block_ff_dim": 64,
        "text_config.block_auto_adjust_ff_dim": False,
    },
)
_row(
    "molmo2",
    "features of both vision blocks",
    {
        "adapter_config.vision_feature_layer": [1, 0],
        "text_config.additional_vocab_size": 16,
        "vision_config.num_position_embeddings": 16,
    },
)
_row("vipllava", "features of both vision blocks", {"vision_feature_layer": [-2, -1, -1, -2, 1]})
_row(
    "paligemma",
    "no pooling head",
    {"vision_config.projection_dim": 32, "vision_config.vision_use_head": False},
)
_row("nemotron_h_omni", "its default has no image token", {"image_token_id": MARK})
_row("nemotron_h_omni", "small pictures", {"max_img_size": 64}, "vision_config")
_row(
    "dots3_note",
    "layers that differ only in what the rules make equal",
    {"text_config.per_layer_config": {}, "vision_config.per_layer_config": {}},
)
_PICTURE_WORDS = ["".join("ABCDEFGHIJ"[int(digit)] for digit in str(word)) for word in range(16)]
_row(
    "chameleon",
    "pictures become words of a codebook of 16",
    {
        "vq_config.embed_dim": 8,
        "vq_config.num_embeddings": 16,
        "vq_config.latent_channels": 8,
        "vq_config.resolution": 32,
        "vq_config.base_channels": 32,
        "vq_config.channel_multiplier": [1, 2],
        "vq_config.num_res_blocks": 1,
        "vocabulary_map": {
            "<image>": MARK,
            **{f"IMGIMG{_PICTURE_WORDS[word]}Z": WORDS + word for word in range(16)},
        },
    },
)
_row(
    "emu3",
    "pictures become words of a codebook of 16",
    {
        "vq_config.codebook_size": 16,
        "vq_config.embed_dim": 4,
        "vq_config.latent_channels": 4,
        "vq_config.temporal_downsample_factor": 1,
        "vq_config.base_channels": 32,
        "vq_config.channel_multiplier": [1, 2],
        "vq_config.num_res_blocks": 1,
        "vq_config.hidden_size": 64,
        "vq_config.num_attention_heads": 1,
        "vocabulary_map": {
            "<image>": MARK,
            "<|extra_200|>": 99,
            **{f"<|visual token {word:06d}|>": WORDS + word for word in range(16)},
        },
    },
)
_row(
    "gemma4_unified",
    "its patches have a width of their own",
    {"mm_embed_dim": 32, "output_proj_dims": 32},
    "vision_config",
)
_row("udop", "its default has no first token of answers", {"decoder_start_token_id": 0})
_row("vision-encoder-decoder", "its default has no tokens", {"pad_token_id": 0, "decoder_start_token_id": 1})

# Vision towers of timm, which name their own architecture.
_row(
    "fast_vlm",
    "stages of convolutions, then of attention",
    {
        "hidden_size": 128,
        "num_classes": 0,
        "global_pool": "",
        "do_pooling": False,
        "model_args": {"inference_mode": True, "layers": [1, 1, 1, 2, 2], "embed_dims": [16, 32, 32, 64, 64]},
    },
    "vision_config",
)
_row(
    "perception_lm",
    "its default is a tower without patches",
    {
        "architecture": "vit_pe_core_large_patch14_336",
        "do_pooling": False,
        "num_classes": 0,
        "global_pool": "",
        "model_args": {
            "embed_dim": 32,
            "img_size": [32, 32],
            "patch_size": [8, 8],
            "depth": 2,
            "num_heads": 2,
            "global_pool": "",
            "use_post_transformer_norm": False,
            "init_values": 0.1,
            "ref_feat_shape": [4, 4],
        },
    },
    "vision_config",
)
_row(
    "gemma3n",
    "tables of words for pictures and sound behind that of the text, and no neuron left out",
    {
        "text_config.vocab_size": 160,
        "text_config.intermediate_size": 64,
        "text_config.num_hidden_layers": 4,
        "text_config.layer_types": ["sliding_attention", "full_attention"] * 2,
        "text_config.num_kv_shared_layers": 2,
        "text_config.activation_sparsity_pattern": [0.0] * 4,
        "text_config.laurel_rank": 16,
        "text_config.sliding_window": 8,
        "vision_config.vocab_offset": 128,
        "vision_config.vocab_size": 16,
        "vision_config.hidden_size": 2048,
        "vision_config.model_args": {"channel_multiplier": 0.125},
        "audio_config.vocab_offset": 144,
        "audio_config.vocab_size": 16,
        "audio_config.conf_num_attention_heads": 2,
        "audio_config.conf_num_hidden_layers": 1,
        "audio_config.hidden_size": 32,
        "audio_config.sscp_conv_channel_size": [8, 8],
        "vision_soft_tokens_per_image": 256,
        "image_token_id": 143,
    },
)

# Dual encoders.
_row(
    "align",
    "an EfficientNet of two stages",
    {
        "width_coefficient": 1.0,
        "depth_coefficient": 1.0,
        "in_channels": [32, 16],
        "out_channels": [16, 32],
        "kernel_sizes": [3, 3],
        "strides": [1, 2],
        "num_block_repeats": [1, 1],
        "expand_ratios": [1, 2],
        "hidden_dim": 32,
    },
    "vision_config",
)
_row(
    "tipsv2",
    "outputs of one stage",
    {"out_features": ["stage2"], "out_indices": [2], "stage_names": ["stem", "stage1", "stage2"]},
    "vision_config",
)
_row("blip-2_retrieval", "its Q-Former reads words, too", {"qformer_config.use_qformer_text_input": True})
_row(
    "bridgetower_contrastive",
    "its default has no width for embeddings",
    {"contrastive_hidden_size": 32, "logit_scale_init_value": 2.6592},
)
_row(
    "xclip",
    "frames see one another in a transformer of its own",
    {"mit_hidden_size": 32, "mit_num_attention_heads": 2},
    "vision_config",
)
_row(
    "grounding-dino mm-grounding-dino",
    "two stages of windows",
    {
        "num_queries": 8,
        "num_feature_levels": 3,
        "backbone_config.embed_dim": 16,
        "backbone_config.depths": [2, 2],
        "backbone_config.num_heads": [2, 2],
        "backbone_config.window_size": 4,
        "backbone_config.stage_names": ["stem", "stage1", "stage2"],
        "backbone_config.hidden_size": 32,
        "backbone_config.out_features": ["stage1", "stage2"],
        "backbone_config.out_indices": [1, 2],
    },
)
_row(
    "videoprism",
    "four frames",
    {"tubelet_size": [1, 8, 8], "num_frames": 4, "num_spatial_layers": 2, "num_temporal_layers": 2},
    "vision_config",
)
_row(
    "bridgetower",
    "a head for each 64 of its width, and more blocks in either tower than bridges",
    {
        "hidden_size": 64,
        "vision_config.hidden_size": 64,
        "vision_config.num_hidden_layers": 4,
        "text_config.hidden_size": 64,
        "text_config.num_hidden_layers": 4,
    },
)

# Beside both.
_row(
    "gemma4_experts",
    "its default has no experts",
    {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 64},
    "text_config",
)
_row(
    "gemma4_shared_keys",
    "its default has a cache for each layer",
    {
        "num_hidden_layers": 6,
        "layer_types": ["sliding_attention", "full_attention"] * 3,
        "num_kv_shared_layers": 2,
    },
    "text_config",
)
_row("vit", "pictures of 16 patches", {})
_row(
    "gpt2",
    "its own names for sizes",
    {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "add_cross_attention": True},
)
_row("trocr", "reads a picture", {"cross_attention_hidden_size": 32})
_row(
    "mbart",
    "a decoder alone",
    {
        "is_decoder": True,
        "is_encoder_decoder": False,
        "add_cross_attention": True,
        "add_final_layer_norm": True,
    },
)
_row(
    "donut-swin",
    "two stages",
    {
        "image_size": 32,
        "patch_size": 4,
        "embed_dim": 16,
        "depths": [2, 2],
        "num_heads": [2, 2],
        "window_size": 4,
    },
)
_row("vit_gpt2 trocr donut", "its default has no tokens", {"pad_token_id": 0, "decoder_start_token_id": 1})
_row(
    "neomme neomme_retrieval",
    "layers that differ only in what the rules make equal",
    {"per_layer_config": {}},
)
_row("embedding_gemma2", "likewise", {"text_config.per_layer_config": {}, "text_config.sliding_window": 8})
_row(
    "layoutlmv3", "places and sizes fill its width", {"coordinate_size": 4, "shape_size": 8, "input_size": 32}
)
_row("shieldgemma2_classifier", "words for yes and no", {"yes_token_index": 50, "no_token_index": 51})
_row(
    "phi4_multimodal",
    "small pictures, short contexts, little sound",
    {
        "original_max_position_embeddings": 256,
        "vision_config.crop_size": 32,
        "audio_config.ext_pw_out_channel": 32,
        "audio_config.nemo_conv_channels": 16,
        "audio_config.input_size": 16,
        "audio_config.depthwise_separable_out_channel": 32,
        "audio_config.num_blocks": 2,
    },
)
