"""Which families there are: those of transformers' image-text mapping, dual encoders, and models of neither kind.

The mappings are those of the transformers that is installed: a new version brings its families along.
"""

from typing import NamedTuple

import transformers as hf
from transformers.models.auto import modeling_auto


class Family(NamedTuple):
    """Names in transformers: of a config (`model_type`), and of the class that is built from it."""

    config: str
    model: str


def _mapping(name: str) -> dict[str, Family]:
    """Families of one of transformers' mappings."""
    found = getattr(modeling_auto, f"MODEL_FOR_{name}_MAPPING_NAMES", {})
    return {key: Family(key, value if isinstance(value, str) else value[0]) for key, value in found.items()}


LEFT_OUT = {
    "evolla": "it reads proteins, no pictures",
    "mistral4": "its class is that of a language model, which reads no pictures",
    "omdet-turbo": "its vision tower is one of timm's, of 28 million weights and pictures of 640 pixels",
}
IMAGE_TEXT = {name: found for name, found in _mapping("IMAGE_TEXT_TO_TEXT").items() if name not in LEFT_OUT}

_DUAL = {
    **_mapping("ZERO_SHOT_IMAGE_CLASSIFICATION"),
    **_mapping("ZERO_SHOT_OBJECT_DETECTION"),
    **_mapping("RETRIEVAL"),
    "blip_retrieval": Family("blip", "BlipForImageTextRetrieval"),
    "blip-2_retrieval": Family("blip-2", "Blip2ForImageTextRetrieval"),
    "bridgetower_contrastive": Family("bridgetower", "BridgeTowerForContrastiveLearning"),
    "aimv2": Family("aimv2", "Aimv2Model"),
    "colqwen2": Family("colqwen2", "ColQwen2ForRetrieval"),
    "flava": Family("flava", "FlavaModel"),
    "groupvit": Family("groupvit", "GroupViTModel"),
    "vision-text-dual-encoder": Family("vision-text-dual-encoder", "VisionTextDualEncoderModel"),
    "xclip": Family("xclip", "XCLIPModel"),
}
_BESIDE = {
    "blip_vqa": Family("blip", "BlipForQuestionAnswering"),
    "bridgetower": Family("bridgetower", "BridgeTowerForMaskedLM"),
    "bridgetower_retrieval": Family("bridgetower", "BridgeTowerForImageAndTextRetrieval"),
    "vilt": Family("vilt", "ViltForQuestionAnswering"),
    "vilt_retrieval": Family("vilt", "ViltForImageAndTextRetrieval"),
    "phi4_multimodal": Family("phi4_multimodal", "Phi4MultimodalForCausalLM"),
    "vit_gpt2": Family("vision-encoder-decoder", "VisionEncoderDecoderModel"),
    "trocr": Family("vision-encoder-decoder", "VisionEncoderDecoderModel"),
    "donut": Family("vision-encoder-decoder", "VisionEncoderDecoderModel"),
    "gemma4_experts": Family("gemma4", "Gemma4ForConditionalGeneration"),
    "gemma4_shared_keys": Family("gemma4", "Gemma4ForConditionalGeneration"),
    "modernvbert": Family("modernvbert", "ModernVBertForMaskedLM"),
    "ultravbert": Family("ultravbert", "UltraVBertForMaskedLM"),
    "neomme": Family("neomme", "NeoMMEForMaskedLM"),
    "neomme_retrieval": Family("neomme", "NeoMMEForRetrieval"),
    "embedding_gemma2": Family("embedding_gemma2", "EmbeddingGemma2Model"),
    "layoutlmv3": Family("layoutlmv3", "LayoutLMv3ForTokenClassification"),
    "shieldgemma2_classifier": Family("shieldgemma2", "ShieldGemma2ForImageClassification"),
}
DUAL = {
    name: family
    for name, family in _DUAL.items()
    if name not in (*IMAGE_TEXT, *LEFT_OUT) and hasattr(hf, family.model)
}
BESIDE = {name: f for name, f in _BESIDE.items() if hasattr(hf, f.model)}
FAMILIES = IMAGE_TEXT | DUAL | BESIDE
