"""A tiny vision-language model whose language tower is a mixture of fused experts (Qwen3-VL-MoE)."""

import torch
import transformers as hf
from torch import Tensor

IMAGE, PATCH, TOKENS = 100, 8, 4


def make(seed: int = 0) -> hf.PreTrainedModel:
    """fp32, evaluation mode: two vision blocks, two language blocks of four experts, two of which see each token."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3], "mrope_interleaved": True}
    config = hf.Qwen3VLMoeConfig(
        text_config={
            "vocab_size": 128,
            "hidden_size": 32,
            "intermediate_size": 64,
            "moe_intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "max_position_embeddings": 256,
            "rope_parameters": rope,
            "pad_token_id": 0,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "depth": 2,
            "num_heads": 2,
            "patch_size": PATCH,
            "out_hidden_size": 32,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],
        },
        image_token_id=IMAGE,
        video_token_id=101,
        vision_start_token_id=102,
        vision_end_token_id=103,
    )
    torch.manual_seed(seed)
    model = hf.Qwen3VLMoeForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.15)
    return model


def batch(seed: int = 0, lengths: tuple[int, ...] = (6, 4)) -> dict[str, Tensor]:
    """An image and as many words a sample, padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    samples = len(lengths)
    words = torch.randint(4, 60, (samples, max(lengths)), generator=generator)
    kept = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = torch.cat([torch.full((samples, TOKENS), IMAGE), words * kept], 1)
    mask = torch.cat([torch.ones(samples, TOKENS, dtype=torch.long), kept.long()], 1)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "pixel_values": torch.randn(16 * samples, 3 * 2 * PATCH**2, generator=generator),
        "image_grid_thw": torch.tensor([[1, 4, 4]] * samples),
        "mm_token_type_ids": (ids == IMAGE).long(),
        "labels": torch.where((mask == 1) & (ids != IMAGE), ids, -100),
    }
