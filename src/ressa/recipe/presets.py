"""Settings by name: what a recipe holds where nothing else is said.

`paper` is what RESSA's scripts and configuration files say for FLAN-T5 (arXiv 2404.02424 and its code), `paper-vicuna`
what they say for Vicuna. docs/paper.md has each setting with its place in their code, and what is left.
"""

from typing import Any, Literal

from pydantic import model_validator

from ressa.recipe.data import DataRecipe
from ressa.sparsity.pattern import Unstructured, parse_pattern

Preset = Literal["paper", "paper-vicuna"]

_SPLIT = "cc3m_train,auto"  # CC3M's captions, where there are others beside them
_CALIBRATION = {"mixture": "prefix-captions", "samples": 128}
_SCORING = {
    "metric": "lavis",
    "rerank": 128,
    "beams": 5,
    "answer_tokens": "1-10",
    "answer_length_penalty": -1.0,
    "caption_tokens": "8-30",
    "caption_length_penalty": 1.0,
    "repetition_penalty": 1.5,
    "question_prompt": "Question: {} Short answer:",
    "question_text": "blip",
    "caption_prompt": "",
    "seed": 42,
}
_PAPER: dict[str, dict[str, Any]] = {
    "prune": {
        **_CALIBRATION,
        "split": _SPLIT,
        "method": "wanda",
        "pattern": "0.5",
        "statistics_of": "dense",
        "crops": True,
        "batch_size": 1,
        "seed": 42,
    },
    "repair": {
        "mixture": "captions",
        "split": _SPLIT,
        "samples": 25_000,
        "epochs": 1.0,
        "batch_size": 32,
        "learning_rate": 1e-4,
        "rank_vision": 4,
        "rank_connector": 2,
        "rank_language": 8,
        "alpha": 16.0,
        "kd_weight": 0.1,
        "temperature": 1.0,
        "warm_start": False,
        "seed": 42,
        "options": {
            "method": "sparse_lora",
            "objective": "both",
            "kd_positions": "all",
            "kd_reduction": "batch",
            "kd_scaled": False,
            "schedule": "epoch_cosine",
            "warmup_steps": 1000,
            "warmup_learning_rate": 1e-6,
            "min_learning_rate": 1e-5,
            "weight_decay": 0.05,
            "max_grad_norm": 0.0,
            "held_back": 0,
            "crops": True,
        },
    },
    "evaluate": _SCORING,
    "sweep": {**_CALIBRATION, "calibration_split": _SPLIT, "crops": True, **_SCORING},
}
_VICUNA: dict[str, dict[str, Any]] = {
    "repair": {"batch_size": 16},
    "evaluate": {
        "answer_length_penalty": 0.0,
        "caption_tokens": "10-80",
        "caption_prompt": "A short image caption.",
    },
}
_VICUNA["sweep"] = _VICUNA["evaluate"]

# The pruners' own arguments where they are not ours.
_METHOD_OPTIONS: dict[str, dict[str, Any]] = {
    "sparsegpt": {"blocksize": 128},
    "dsnot": {"max_cycle_time": 100},
}
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "paper": _PAPER,
    "paper-vicuna": {name: {**values, **_VICUNA.get(name, {})} for name, values in _PAPER.items()},
}


def with_preset(command: str, given: dict[str, Any]) -> dict[str, Any]:
    """A recipe's values as given, before they are checked, and what its preset has to say of the rest.

    Single options are given and preset alike: of both, the given one holds.
    """
    preset = PRESETS.get(str(given.get("preset")), {}).get(command)
    if preset is None:
        return given
    values = {**preset, **given}
    options = preset.get("options") or _METHOD_OPTIONS.get(str(values.get("method")), {})
    if options and isinstance(given.get("options", {}), dict):
        values["options"] = {**options, **given.get("options", {})}
    if command == "sweep" and values.get("method", "wanda") == "wanda":
        values.setdefault("vision_scope", "layer")
    if command == "prune":
        if given.get("vision") is None:
            values["vision"] = _vision(values["method"], values["pattern"])
        if str(given.get("allocation")).startswith("ecoflap"):
            values.setdefault("margin", 1.0)  # its scripts' --max_sparsity_per_layer 1.01 is no cap
            values.setdefault("block_scores", "code")
    return values


def _vision(method: Any, pattern: Any) -> Any:
    """Wanda's pruner compares a ViT layer's weights over the whole layer, and only the language model's by row."""
    if method != "wanda" or not isinstance(pattern, str | float) or "@" in str(pattern):
        return None
    parsed = parse_pattern(pattern)
    return f"{parsed.sparsity}@layer" if isinstance(parsed, Unstructured) else None


class PresetRecipe(DataRecipe):
    """A recipe that a preset may fill."""

    preset: Preset | None = None
    """Whose settings hold where nothing else is said: paper or paper-vicuna (docs/paper.md)."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        return (
            with_preset(cls.model_fields["command"].default, values) if isinstance(values, dict) else values
        )
