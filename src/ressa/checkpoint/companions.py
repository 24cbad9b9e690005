"""What lies beside a model's weights (config, tokenizer, processor, README, licence), carried over as it is."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from ressa.checkpoint.manifest import MANIFEST, MASKS, SCORES
from ressa.checkpoint.place import CONFIG
from ressa.errors import UsageError, brief
from ressa.files import write_json

WEIGHTS = (
    *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".ot", ".h5", ".msgpack", ".gguf", ".onnx", ".npz"),
    ".index.json",
)
FROM_HUB = (
    *("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.py", "*.md"),
    *("LICENSE*", "LICENCE*", "NOTICE*"),
)
OF_A_PROCESSOR = ("tokenizer_config.json", "preprocessor_config.json", "*.jinja")

# What a config's numbers are by their names, and far more than any model has of it.
MOST = {
    r"(layers?|experts?|blocks?|stages?|depths?)$": 10_000,
    r"(size|dim|width|heads|channels|d_model|d_ff|d_kv|embeddings|positions|queries|tokens)$": 10**8,
}
# Likewise of a processor's: pixels of a side, tokens of an image. Edges may count pixels of a whole picture; Qwen's
# budget for moving pictures is 128,000 tokens.
MOST_OF_A_PICTURE = {
    r"^(height|width)$": 20_000,
    r"^(?!.*video).*(tokens|seq_length)$": 100_000,
    r"edge$": 10**9,
}
OF_PICTURES = ("processor_config.json", "preprocessor_config.json")


def companions_folder(place: Path | str) -> Path:
    """The local folder of a model's small files: the model's own, or the hub's snapshot of them."""
    if isinstance(place, Path):
        return place
    return Path(snapshot_download(place, allow_patterns=list(FROM_HUB)))


def check_companions(folder: Path) -> None:
    """Raises UsageError for a config or tokenizer file that is no JSON object, names a token by what is no number,
    or asks for pictures that no model sees: transformers passes some of that by, and of the rest it does not say
    in which file it is. Likewise for a link that would bring a file of another place into the result."""
    for path in sorted({*folder.glob("*_config.json"), *folder.glob("tokenizer.json")}):
        found = _json_object(path)
        for key, value in found.items():
            if key.endswith("_token_id") and not _are_tokens(value):
                raise UsageError(f"{path} has {key} {brief(value)}: make that the number of a token.")
        if path.name in OF_PICTURES:
            _check_numbers(path, found, MOST_OF_A_PICTURE)
    for path in _files(folder):
        if path.is_symlink() and not _is_a_models(path.resolve().parent, folder):
            raise UsageError(
                f"{path} is a link that leads out of the model's folder, and what it leads to would be copied into the "
                "result: put the file itself there, or take the link out."
            )


def _is_a_models(place: Path, folder: Path) -> bool:
    """Whether files at a place are a model's: of the folder itself, the hub's cache of it, or a folder like it."""
    cache = folder.resolve().parent.parent / "blobs"  # beside snapshots/REVISION
    return place.is_relative_to(folder.resolve()) or place == cache or (place / CONFIG).is_file()


def _are_tokens(value: Any) -> bool:
    """Whether a config's value is a token's number, several, or none."""
    ids = value if isinstance(value, list) else [value]
    return all(
        one is None or (isinstance(one, int) and not isinstance(one, bool) and 0 <= one < 2**31)
        for one in ids
    )


def check_sizes(folder: Path) -> None:
    """Raises UsageError for a config.json that asks for more than any model has: making it would fill the memory."""
    path = folder / CONFIG
    _check_numbers(path, _json_object(path), MOST)


def _check_numbers(path: Path, config: dict[str, Any], bounds: dict[str, int]) -> None:
    for key, value in _numbers(config):
        if any(value > most and re.search(pattern, key) for pattern, most in bounds.items()):
            raise UsageError(
                f"{path} says that {key} is {brief(value)}, which no model has: make or fetch it anew."
            )


def _json_object(path: Path) -> dict[str, Any]:
    """What a JSON file holds. Raises UsageError unless it is a file with a JSON object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): see to its rights.") from None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UsageError(f"{path} is damaged (it has to be a JSON object): make or fetch it anew.")
    return found


def _numbers(config: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """Every number in a config, with the key it stands under."""
    if isinstance(config, dict):
        for name, value in config.items():
            yield from _numbers(value, name)
    elif isinstance(config, list):
        for value in config:
            yield from _numbers(value, key)
    elif isinstance(config, int | float):
        yield key, config


def carry_over(source: Path, target: Path) -> None:
    """Copy what lies beside the weights in `source` to `target`, byte for byte.

    A subfolder comes along if it holds a part of the processor (`qformer_tokenizer`); one with weights is
    another model.
    """
    for path in _files(source):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def correct_config(folder: Path, model: Any) -> None:
    """Change a folder's config only where it would not be true of the model as it is saved there: the dtype of
    its weights, a quantization that is gone, a class that no architecture names."""
    stated = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    true = _true_config(stated, model)
    if true != stated:
        write_json(folder / CONFIG, true)


def is_weights(path: Path) -> bool:
    """Whether a file holds tensors, or says in which file they are."""
    return path.name.endswith(WEIGHTS)


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in (MANIFEST, MASKS, SCORES):
            continue
        if path.is_file() and not is_weights(path):
            yield path
        elif path.is_dir() and any(any(path.glob(name)) for name in OF_A_PROCESSOR):
            below = sorted(each for each in path.rglob("*") if each.is_file())
            if not any(is_weights(each) for each in below):
                yield from below


def _true_config(stated: dict[str, Any], model: Any) -> dict[str, Any]:
    made = dict(stated)
    made.pop("sparsity_config", None)  # vLLM refuses any checkpoint that has this key, whatever it says
    if getattr(model.config, "quantization_config", None) is None:
        made.pop("quantization_config", None)
    if not made.get("architectures"):
        made["architectures"] = [type(model).__name__]
    dtype = str(model.dtype).removeprefix("torch.")
    if made.get("dtype", made.get("torch_dtype", dtype)) != dtype:
        made = _of_dtype(made, dtype)
    return made


def _of_dtype(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """The config, and the configs of its parts, with another dtype wherever they state one."""
    made: dict[str, Any] = {}
    for key, value in config.items():
        if key in ("dtype", "torch_dtype") and value is not None:
            made[key] = dtype
        else:
            made[key] = _of_dtype(value, dtype) if isinstance(value, dict) else value
    return made
