"""Quantised checkpoints are told from their config.json and refused in a sentence; nothing else of them is there."""

import json

import pytest

from ressa.checkpoint import empty_model, load
from ressa.errors import UsageError
from tests.families import FAMILIES

CONFIGS = {
    "bitsandbytes (4 bits)": {"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False},
    "bitsandbytes (8 bits)": {"load_in_4bit": False, "load_in_8bit": True},  # as its first versions wrote it
    "GPTQ (4 bits)": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    "AWQ (4 bits)": {"quant_method": "awq", "bits": 4, "version": "gemm"},
    "FP8": {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
    "compressed-tensors": {"quant_method": "compressed-tensors", "format": "pack-quantized"},
}


def folder_with(path, quantization, part=None):
    """A folder with nothing in it but the config of a LLaVA, quantised as a whole or in a part."""
    config = FAMILIES["llava"].build().config.to_dict()
    (config if part is None else config[part])["quantization_config"] = quantization
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    return path


def refusal(open_model, folder) -> str:
    with pytest.raises(UsageError) as refused:
        open_model(folder)
    return str(refused.value)


@pytest.mark.parametrize("part", [None, "text_config"])
@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_said_by_what_the_weights_are_quantised_and_what_to_give(tmp_path, name, part):
    folder = folder_with(tmp_path / "model", CONFIGS[name], part)
    said = refusal(empty_model, folder)
    assert f"quantised by {name}, " in said
    assert "give the checkpoint in bfloat16, float16 or float32" in said
    assert said.count(". ") == 0
    assert said.endswith(".")


def test_where_transformers_can_write_plain_weights_again_the_way_is_named(tmp_path):
    ways = {
        "bitsandbytes (4 bits)": "model.dequantize()",
        "FP8": "FineGrainedFP8Config(dequantize=True)",
    }
    for number, (name, quantization) in enumerate(CONFIGS.items()):
        said = refusal(empty_model, folder_with(tmp_path / str(number), quantization))
        assert ("save it plain first" in said) == name.startswith(("bitsandbytes", "FP8")), name
        assert ways.get(name, "") in said


def test_it_is_refused_before_weights_are_looked_for(tmp_path):
    said = refusal(load, folder_with(tmp_path / "model", CONFIGS["GPTQ (4 bits)"]))
    assert "quantised by GPTQ" in said
