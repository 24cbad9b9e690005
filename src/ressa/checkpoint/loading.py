"""From what a user calls a model to the model in memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.constants import HF_HUB_OFFLINE
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
)

from ressa.anatomy import find_anatomy
from ressa.checkpoint.companions import check_companions, check_sizes, companions_folder
from ressa.checkpoint.place import CONFIG, find, refusal_of_adapter
from ressa.checkpoint.quantized import check_plain
from ressa.checkpoint.stored import StoredTensors, check_weights
from ressa.embedded import MODELS
from ressa.errors import RunError, UsageError
from ressa.runtime.format import METHOD
from ressa.runtime.linear import Mode
from ressa.runtime.model import prepare_all, unpack_model


@dataclass
class Vlm:
    """A vision-language model with its processor. source: the name it was loaded by. folder: where the files beside
    its weights lie on this machine; None for a model that was made in memory."""

    model: Any
    processor: Any
    source: str = ""
    folder: Path | None = None


def load(
    spec: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    device: torch.device | str = "cpu",
    mode: Mode = "auto",
    unpack: bool = False,
) -> Vlm:
    """Load a VLM and its processor in evaluation mode.

    spec: a folder with config.json, a hub id, "embedded" or "embedded-llava". dtype: None or "auto" for that
    of the checkpoint, else float32, bfloat16 or float16. Only a hub id makes anything go over the network.
    Of a packed folder: mode says how its layers compute (`ressa.runtime.linear.PackedLinear`); unpack makes
    plain linear layers of them.
    Raises UsageError if there is no such model, it lacks weights or a processor, or it is no VLM.
    """
    source = str(spec)
    place = find(spec)
    if isinstance(place, Path):
        check_companions(place)
    model = load_model(place, source, dtype=dtype)
    if unpack:
        unpack_model(model)
    find_anatomy(model)
    with explained(source):
        processor = AutoProcessor.from_pretrained(place, **_safely(place))
        folder = companions_folder(place)
    if not hasattr(processor, "image_processor"):
        raise UsageError(
            f"{source} has no processor for images: save the model's processor in the same folder."
        )
    model = model.to(device).eval()
    prepare_all(model, mode)
    return Vlm(model, processor, source, folder)


def load_model(place: Path | str, source: str, *, dtype: str | torch.dtype | None = None) -> Any:
    """The model of a folder or a hub id, on the CPU, without its processor; packed layers are as they are stored.

    Raises UsageError and RunError if it cannot be loaded, or not to the last weight.
    """
    config, known = plan_of(place, source)
    if isinstance(place, Path):
        _check_size(place, without_weights(deepcopy(config), known, source))
    packed = getattr(config, "quantization_config", None)
    if isinstance(packed, dict) and packed.get("quant_method") == METHOD:
        packed["mode"] = "packed"  # to be prepared where it will compute
    with explained(source):
        model, loaded = known.from_pretrained(
            place, config=config, dtype=dtype or "auto", output_loading_info=True, **_safely(place)
        )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise UsageError(refusal_of_adapter(source))
    if missing := sorted(loaded["missing_keys"]):
        raise UsageError(
            f"{source} lacks {len(missing)} weights of a {type(model).__name__} (such as {missing[0]}): "
            "give a complete checkpoint."
        )
    if unknown := sorted(loaded["unexpected_keys"]):
        raise UsageError(
            f"{source} holds {len(unknown)} weights that a {type(model).__name__} of its config.json has no place "
            f"for (such as {unknown[0]}), and they would be lost: make config.json and weights agree."
        )
    return model


def plan_of(place: Path | str, source: str) -> tuple[Any, Any]:
    """The config of a model and the transformers class it was saved from, or the one made for such configs.

    Raises UsageError if a folder's weights are quantised, damaged, or too few for what its config says.
    """
    if isinstance(place, Path):
        check_sizes(place)
    config = _config(place, source)
    with explained(source):
        known = model_class(config)
    if isinstance(place, Path):
        check_weights(place)
    return config, known


def _check_size(folder: Path, skeleton: Any) -> None:
    """Raises UsageError if a config describes a far larger model than the weights are of: transformers would make up
    what is missing, in memory that may not be there. skeleton: the model, on the meta device."""
    places = StoredTensors(folder).places.values()
    stored, described = (
        sum(prod(place.shape) for place in places),
        sum(p.numel() for p in skeleton.parameters()),
    )
    if stored and described > 10 * stored:  # packed and tied weights are fewer than those described
        raise UsageError(
            f"{folder / CONFIG} describes a model of {described / 1e6:,.1f} million weights, and {stored / 1e6:,.1f} "
            "million are stored: make them agree."
        )


def empty_model(spec: str | Path) -> Any:
    """A model's modules on the meta device, with shapes and dtypes but no weights: of its config, nothing is read.

    Raises UsageError as `load` does.
    """
    config = _config(find(spec), str(spec))
    return without_weights(config, model_class(config), str(spec))


def _config(place: Path | str, source: str) -> Any:
    """The config of a folder or a hub id. Raises UsageError if that cannot be read, or says of quantised weights."""
    with explained(source):
        config = AutoConfig.from_pretrained(place, **_safely(place))
    check_plain(config.to_dict(), source)
    return config


def without_weights(config: Any, known: Any, source: str) -> Any:
    """An instance of `known`, the transformers class for a config, on the meta device."""
    with explained(source), torch.device("meta"):
        return known._from_config(config) if hasattr(known, "_from_config") else known.from_config(config)


def _safely(place: Path | str) -> dict[str, Any]:
    """Nothing of a folder is looked for on the network, and Python that comes with a model never runs."""
    return {"local_files_only": isinstance(place, Path), "trust_remote_code": False}


def model_class(config: Any) -> Any:
    """The class that a config names, if transformers has such a model, else the one it has for such configs."""
    for name in getattr(config, "architectures", None) or ():
        found = getattr(transformers, name, None)
        if isinstance(found, type) and issubclass(found, PreTrainedModel):
            return found
    known = type(config) in AutoModelForImageTextToText._model_mapping
    return AutoModelForImageTextToText if known else AutoModel


@contextmanager
def explained(source: str) -> Iterator[None]:
    """Turns what transformers and the hub say into one sentence."""
    try:
        yield
    except (UsageError, RunError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a library comes upon in somebody's folder
        reason = _reason(error)
        if "custom code" in reason:
            raise UsageError(
                f"{source} brings Python code of its own, which ressa never runs: give a checkpoint of a family "
                "that transformers itself knows."
            ) from error
        if Path(source).is_dir() or source in MODELS:
            raise UsageError(
                f"{source} cannot be loaded ({reason}): give a complete checkpoint of a family that this "
                "version of transformers knows."
            ) from error
        if HF_HUB_OFFLINE:
            raise UsageError(
                f"{source} is neither a folder nor in the local cache, and HF_HUB_OFFLINE is set: "
                "give a folder with config.json or 'embedded', or unset that to fetch it from the hub."
            ) from error
        raise UsageError(
            f"{source} is no folder and cannot be fetched from the hub ({reason}): "
            "give a folder with config.json, another hub id, or 'embedded'."
        ) from error


def _reason(error: Exception) -> str:
    """The line of a library's error that says what was wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if "ignore_mismatched_sizes" in lines[0]:
        return "its weights have other shapes than config.json says"
    if "weights_only" in lines[0] or "Weights only load failed" in lines[0]:
        return (
            "its pickled weights hold more than tensors, and nothing else is loaded; save them as safetensors"
        )
    if isinstance(error, KeyError):
        lines = [f"there is no {lines[0]}"]
    if len(lines) > 1 and lines[0].endswith(":"):  # such as "Validation error for field 'hidden_size':"
        lines = [f"{lines[0]} {lines[1]}"]
    return lines[0][:300].rstrip(".:")
