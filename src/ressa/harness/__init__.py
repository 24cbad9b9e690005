"""Other people's evaluation harnesses: `run_lmms_eval` has lmms-eval score a model, in a process of its own.

`manifests` is what lmms-eval finds at its entry point `lmms_eval.models`: with ressa installed beside it,
`lmms-eval --model ressa --model_args pretrained=FOLDER` scores any model that ressa loads, packed ones too.
"""

from typing import TYPE_CHECKING, Any

from ressa.doors import door

if TYPE_CHECKING:
    from ressa.harness.running import run_lmms_eval
else:
    __getattr__, __dir__ = door(__name__, running="run_lmms_eval")

__all__ = ["manifests", "run_lmms_eval"]


def manifests() -> list[Any]:
    """What lmms-eval (0.7 or newer) asks a plugin for: the models that it brings."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return [ModelManifest(model_id="ressa", simple_class_path="ressa.harness.lmms_model.RessaModel")]
