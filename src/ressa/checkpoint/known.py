"""The shapes of models that a dry run can speak of before they are fetched: those of RESSA's experiments.

The language models' sizes are those of their pages' `config.json`; the rest (ViT-g, a Q-Former with 32 queries) is what
transformers has by default for these classes.
"""

from typing import Any

import transformers as hf

from ressa.checkpoint.loading import model_class, without_weights

_T5 = {
    "d_kv": 64,
    "num_layers": 24,
    "feed_forward_proj": "gated-gelu",
    "vocab_size": 32128,
    "tie_word_embeddings": False,
}
_FLAN_T5 = {
    "xl": {"d_model": 2048, "d_ff": 5120, "num_heads": 32},
    "xxl": {"d_model": 4096, "d_ff": 10240, "num_heads": 64},
}
_VICUNA = {
    "7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
    "13b": {
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
    },
}
_OPT = {
    "2.7b": {"hidden_size": 2560, "ffn_dim": 10240, "num_hidden_layers": 32, "num_attention_heads": 32},
    "6.7b": {"hidden_size": 4096, "ffn_dim": 16384, "num_hidden_layers": 32, "num_attention_heads": 32},
}
KNOWN: dict[str, tuple[str, str, dict[str, Any]]] = {
    **{
        f"Salesforce/instructblip-flan-t5-{size}": ("InstructBlip", "T5", _T5 | own)
        for size, own in _FLAN_T5.items()
    },
    **{f"Salesforce/blip2-flan-t5-{size}": ("Blip2", "T5", _T5 | own) for size, own in _FLAN_T5.items()},
    **{
        f"Salesforce/instructblip-vicuna-{size}": ("InstructBlip", "Llama", {"vocab_size": 32001} | own)
        for size, own in _VICUNA.items()
    },
    **{
        f"Salesforce/blip2-opt-{size}": ("Blip2", "OPT", {"vocab_size": 50304} | own)
        for size, own in _OPT.items()
    },
}


def known_model(spec: str) -> Any:
    """A model that is known by its hub id, on the meta device, as `empty_model` gives it; None for any other."""
    if spec not in KNOWN:
        return None
    family, language, sizes = KNOWN[spec]
    text = getattr(hf, f"{language}Config")(**sizes)
    config = getattr(hf, f"{family}Config")(text_config=text, dtype="float32")
    config.architectures = [f"{family}ForConditionalGeneration"]
    return without_weights(config, model_class(config), spec)
