"""Tiny random models of every family that transformers reads pictures and words with, each made from its default
config by rule.

    model = build("qwen3_vl_moe")
    alone = samples("qwen3_vl_moe", model)   # two samples, each a batch of its own
    model(**together(alone))                 # both in one batch, padded
"""

import torch
import transformers as hf

from zoo.catalog import BESIDE, DUAL, FAMILIES, IMAGE_TEXT, LEFT_OUT, Family
from zoo.configs import tiny_config
from zoo.inputs import Batch, sample, samples, together

__all__ = [
    "BESIDE",
    "DUAL",
    "FAMILIES",
    "IMAGE_TEXT",
    "LEFT_OUT",
    "Batch",
    "Family",
    "build",
    "sample",
    "samples",
    "together",
]


def build(family: str, seed: int = 0) -> hf.PreTrainedModel:
    """A model in fp32 and evaluation mode, its weights large enough that every token and layer matters.

    Raises ImportError where a family's vision tower needs a library that is not installed (timm).
    """
    kind = getattr(hf, FAMILIES[family].model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(tiny_config(family))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, 0.15)
                elif parameter.dim() == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.02)
    return model.float().eval()
