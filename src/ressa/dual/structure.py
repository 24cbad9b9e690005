"""Whether a model is a dual encoder, and of which kind: told by its processor, and what its forward takes and gives."""

import dataclasses
import inspect
import math
import sys
import typing
from typing import Any

from torch import Tensor

ITM_SWITCHES = ("use_itm_head", "use_image_text_matching_head")  # BLIP's, BLIP-2's name for one thing


def itm_switch(model: Any) -> str | None:
    """The forward argument that turns the model's image-text matching (ITM) head on; None where it has no such head."""
    arguments = inspect.signature(model.forward).parameters
    return next((name for name in ITM_SWITCHES if name in arguments), None)


def is_late(processor: Any) -> bool:
    """Whether a processor prepares pages and queries apart, for late interaction (ColPali, ColQwen2): their model gives
    a vector for each token of either."""
    return hasattr(processor, "process_images") and hasattr(processor, "process_queries")


def is_dual_encoder(model: Any, processor: Any = None) -> bool:
    """Whether images and texts are embedded apart, into one space, and that is what the model itself is for: a detector
    or a segmenter around a dual encoder (OWL-ViT, CLIPSeg) is none."""
    if is_late(processor) or itm_switch(model) is not None:
        return True
    return scale_of(model) is not None and {"image_embeds", "text_embeds"} <= _given(model)


def scale_of(model: Any) -> float | None:
    """What a model multiplies its similarities by; None where it has no such number."""
    logarithm, temperature = number_of(model, "logit_scale"), number_of(model, "temperature")
    if logarithm is not None:
        return math.exp(logarithm)
    return None if temperature is None else 1 / temperature


def number_of(model: Any, name: str) -> float | None:
    """The value of a parameter that is one number."""
    found = getattr(model, name, None)
    return float(found.detach()) if isinstance(found, Tensor) and found.numel() == 1 else None


def _given(model: Any) -> set[str]:
    """The names of what a model's forward gives, by its annotation."""
    annotation = inspect.signature(model.forward).return_annotation
    if isinstance(annotation, str):
        home = vars(sys.modules[type(model).__module__])
        kinds = [home.get(part.strip()) for part in annotation.split("|")]
    else:
        kinds = [annotation, *typing.get_args(annotation)]
    return {
        field.name for kind in kinds if dataclasses.is_dataclass(kind) for field in dataclasses.fields(kind)
    }
