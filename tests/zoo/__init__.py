"""Tiny random models of every family in transformers' image-text mapping, each made from its default config by rule.

    model = build("qwen3_vl_moe")
    alone = samples("qwen3_vl_moe", model)   # two samples, each a batch of its own
    model(**together(alone))                 # both in one batch, padded

The mapping is that of the transformers that is installed: a new version brings its families along.
"""

import torch
import transformers as hf
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as MAPPING

from zoo.configs import tiny_config
from zoo.inputs import Batch, sample, samples, together

__all__ = ["FAMILIES", "MAPPING", "NO_PICTURES", "Batch", "build", "sample", "samples", "together"]

NO_PICTURES = {"evolla": "it reads proteins", "mistral4": "its class is that of a language model"}
FAMILIES = tuple(family for family in MAPPING if family not in NO_PICTURES)


def build(family: str, seed: int = 0) -> hf.PreTrainedModel:
    """A model in fp32 and evaluation mode, its weights large enough that every token and layer matters.

    Raises ImportError where a family's vision tower needs a library that is not installed (timm).
    """
    found = MAPPING[family]
    kind = getattr(hf, found if isinstance(found, str) else found[0])
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
