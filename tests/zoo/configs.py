"""A family's default config, made tiny by rule: every width a multiple of 8, every kind of layer still there.

What no rule can know stands in `EXCEPTIONS`, each with its reason.
"""

import re
from collections.abc import Mapping
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig

from zoo.catalog import FAMILIES
from zoo.exceptions import EXCEPTIONS, PARTS

VOCABULARY = 128
IMAGE = 100  # the token that stands for a picture's; other marks follow it
PAD, BEGIN, END = 0, 1, 2
WIDTH, INNER, HEADS, HEAD = 32, 64, 2, 16

SIZES: dict[str, int] = {
    r"((out|text|vision|encoder|image_text)_)?hidden_size": WIDTH,
    r"d_model|embed_dim|dim|width|output_dim|projection_dim|word_embed_proj_dim|vision_output_dim": WIDTH,
    r"projection_size|pooler_output_size": WIDTH,
    r"projector_(in|out)put_dim": WIDTH,
    r"(\w+_)?intermediate_size(_mlp)?|(\w+_)?ffn_dim|d_ff|mlp_dim|projector_hidden_size": INNER,
    r"num_(hidden_|encoder_|decoder_)?layers|n_layers|depth|layers|(en|de)coder_layers": 2,
    r"(num_|encoder_|decoder_)?attention_heads|(num|n)_heads": HEADS,
    r"head_dim|(global|v|qk_nope)_head_dim|d_kv": HEAD,
    r"qk_rope_head_dim": HEAD // 2,
    r"qk_head_dim": HEAD + HEAD // 2,
    r"(kv|q)_lora_rank|index_head_dim|hidden_size_per_layer_input": 16,
    r"vocab_size(_per_layer_input)?": VOCABULARY,
    r"image_size": 32,
    r"patch_size": 8,
    r"num_(local_|routed_)?experts|n_routed_experts|moe_num_experts": 4,
    r"num_experts_per_tok|top_k_experts|moe_(topk|k)": 2,
    r"n_group|topk_group": 1,
    r"max_position_embeddings": 256,
    r"num_position_embeddings": 16,
    r"num_query_tokens|resampler_n_latents": 4,
}
NAMED = {"pad": PAD, "decoder_start": PAD, "bos": BEGIN, "eos": END, "sep": END, "image": IMAGE}
KINDS = re.compile(r"(\w+_)?layer_types|layers_block_type")
BY_LAYER = "num_hidden_layers"


def tiny_config(family: str) -> PreTrainedConfig:
    """A family's config, by its name in `zoo.FAMILIES`."""
    name = FAMILIES[family].config
    kind = CONFIG_MAPPING[name]
    made = Shrinking().whole(kind().to_dict())
    for place, part in PARTS.get(family, PARTS.get(name, {})).items():
        shrunk = Shrinking().whole(CONFIG_MAPPING[part]().to_dict())
        put(shrunk, EXCEPTIONS[part].values if part in EXCEPTIONS else {})
        made[place] = shrunk | {"model_type": part}
    for each in dict.fromkeys((name, family)):
        if each in EXCEPTIONS:
            put(made, EXCEPTIONS[each].values)
    return kind(**made)


def put(config: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Give values to the keys that dotted paths lead to."""
    for path, value in values.items():
        *parts, last = path.split(".")
        place = config
        for part in parts:
            if place.get(part) is None:
                place[part] = {}
            place = place[part]
        place[last] = value


class Shrinking:
    """Makes one config small; equal names of tokens get equal numbers throughout it."""

    def __init__(self) -> None:
        self.tokens: dict[str, int] = {}

    def whole(self, config: Mapping[Any, Any]) -> dict[str, Any]:
        """config: a part of it, or all, as a mapping."""
        left_out = ("transformers_version", "architectures", "dtype", "torch_dtype", "per_layer_config")
        old = {str(key): value for key, value in config.items() if key not in left_out}
        new = {key: self.value(key, value, old) for key, value in old.items()}
        layers = old.get(BY_LAYER)
        kinds = [key for key, value in old.items() if KINDS.fullmatch(key) and value]
        if kinds:  # every kind of layer is there, twice where there are two
            most = max(len(set(old[key])) for key in kinds)
            new[BY_LAYER] = most if most == 1 or most > 4 else 4
            new[BY_LAYER] = max(2, new[BY_LAYER])
        for key, value in old.items():
            if key in kinds:
                new[key] = shortened(value, new[BY_LAYER])
            elif isinstance(value, list | tuple) and layers and len(value) == layers > new[BY_LAYER]:
                new[key] = list(value[: new[BY_LAYER]])
        if new.get("num_kv_shared_layers"):
            new["num_kv_shared_layers"] = 2
        return new

    def value(self, key: str, value: Any, among: Mapping[str, Any]) -> Any:
        """What becomes of one entry of a config."""
        if key in ("rope_parameters", "rope_scaling"):
            return rotations(value, among)
        if isinstance(value, Mapping):
            return dict(value) if key in ("id2label", "label2id") else self.whole(value)
        if isinstance(value, bool) or value is None:
            return value
        if re.fullmatch(r"\w*token_(id|index)|image_patch_id|im_\w+_id", key):
            return [self.token(key)] if isinstance(value, list) else self.token(key)
        if re.fullmatch(r"num_(global_)?(key_value|kv)_heads", key):
            return HEADS if value == among.get("num_attention_heads") else 1
        if key == "first_k_dense_replace":
            return min(value, 1)
        if key == "deepstack_visual_indexes":
            return [0, 1] if value else value
        if key == "fullatt_block_indexes":
            return [1]
        size = next((size for names, size in SIZES.items() if re.fullmatch(names, key)), None)
        if size is None or isinstance(value, str | float):
            return value
        if isinstance(value, list | tuple):
            return [min(size, each) if key.endswith("_tok") else size for each in value]
        return min(size, value) if size <= HEADS and "layers" not in key else size

    def token(self, key: str) -> int:
        """A token's number, from what it is called."""
        name = key.removesuffix("_id").removesuffix("_index").removesuffix("_token").lstrip("_")
        if name in NAMED:
            return NAMED[name]
        if name in ("media_placeholder", "img_context", "image_patch"):
            return IMAGE
        return self.tokens.setdefault(key, IMAGE + 1 + len(self.tokens))


def shortened(kinds: list[str], layers: int) -> list[str]:
    """The first kinds of layers, or, if one is not among those, each in turn."""
    first = list(kinds[:layers])
    each = list(dict.fromkeys(kinds))
    if set(first) != set(each):
        first = (each * layers)[:layers]
    return first + first[-1:] * (layers - len(first))


def rotations(rope: Any, among: Mapping[str, Any]) -> Any:
    """Rotary parameters for heads of `HEAD`: the sections of several axes share half of what is rotated."""
    if not isinstance(rope, Mapping):
        return rope
    new = {key: rotations(value, among) for key, value in rope.items()}
    if new.get("mrope_section"):
        share = new.get("partial_rotary_factor") or among.get("partial_rotary_factor") or 1.0
        half, count = int(HEAD * share / 2), len(new["mrope_section"])
        new["mrope_section"] = [half // count + (number < half % count) for number in range(count)]
    return new
