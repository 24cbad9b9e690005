"""Checkpoints whose weights are quantised: told from the config alone, and refused before a weight is read."""

from collections.abc import Iterator, Mapping
from typing import Any

from ressa.errors import UsageError
from ressa.runtime.format import METHOD

_NAMES = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "fp8": "FP8",
    "fbgemm_fp8": "FP8",
    "mxfp4": "MXFP4",
}
_AGAIN = {  # how transformers writes plain weights again; GPTQ and AWQ have no such way
    "bitsandbytes": "model.dequantize()",
    "fp8": "FineGrainedFP8Config(dequantize=True)",
    "mxfp4": "Mxfp4Config(dequantize=True)",
}


def check_plain(config: Mapping[str, Any], source: str) -> None:
    """Raises UsageError if a model, or a part of it, is quantised in another way than ressa's own packing.

    config: the contents of a config.json.
    """
    for found in _quantizations(config):
        method = _method(found)
        if method == METHOD:
            continue
        bits = _bits(found)
        name = f"{_NAMES.get(method, method)}{f' ({bits} bits)' if bits else ''}"
        way = f", or save it plain first (transformers: {_AGAIN[method]})" if method in _AGAIN else ""
        raise UsageError(
            f"{source} holds weights that are quantised by {name}, and ressa works on plain ones: give the checkpoint "
            f"in bfloat16, float16 or float32 that it was made from{way}."
        )


def _quantizations(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every `quantization_config` of a config and of the configs of its parts."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            if key == "quantization_config":
                yield value
            else:
                yield from _quantizations(value)


def _method(found: Mapping[str, Any]) -> str:
    """What a quantization calls itself; the first configs of bitsandbytes had no name."""
    is_old = found.get("load_in_4bit") or found.get("load_in_8bit")
    return str(found.get("quant_method") or ("bitsandbytes" if is_old else "an unknown method"))[:40]


def _bits(found: Mapping[str, Any]) -> int | None:
    bits = found.get("bits", found.get("w_bit"))
    if found.get("load_in_4bit") or found.get("load_in_8bit"):
        bits = 4 if found.get("load_in_4bit") else 8
    return bits if isinstance(bits, int) else None
