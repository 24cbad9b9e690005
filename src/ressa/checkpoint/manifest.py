"""What lies beside the weights of a result: `ressa.json`, which says how it was made, and packed masks."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

from ressa.checkpoint.place import lasting_name
from ressa.errors import UsageError
from ressa.files import write_json
from ressa.fused import Part
from ressa.runtime.format import is_packed

if TYPE_CHECKING:
    from torch import Tensor

    from ressa.sparsity import PackedMasks

MANIFEST = "ressa.json"
MASKS = "ressa_masks.safetensors"
SCORES = "ressa_scores.json"  # what `ressa evaluate --card` found: the model's name → its result
DENSE = "dense"
PARENT = "parent"  # what tells, in a manifest's recipe, which result it began with; no key of a recipe itself


class LayerReport(BaseModel):
    """One prunable linear. asked: a pattern, or "dense". achieved: the share of zeros counted in its weight.
    tensor: the key it is stored under (transformers renames some on saving), empty where it is stored in
    another form. part: where it lies within that tensor, if others do too (an expert's share of fused weights)."""

    model_config = ConfigDict(frozen=True)

    name: str
    tower: str
    shape: tuple[int, int]
    asked: str
    achieved: float
    tensor: str = ""
    part: Part | None = None


class Manifest(BaseModel):
    """How a folder was made. `checkpoint.save` fills in what is counted: `layers` (every prunable linear,
    dense ones too) and `towers` (share of zeros in the prunable linears of each). computed_in: the dtype of the
    weights as they were pruned or repaired, which need not be the one they are stored in. seconds: what pruning or
    repair took. prunable: tower → the share of its blocks' weights that lies in prunable linears; outside: modules
    with linears in no tower. spent: where the time of the whole run went (load, calibrate, prune, save), in seconds.
    besides: what else the run was told that is not at its default (`BaseRecipe.besides`). base: the dense model that
    all began with; parents: the recipes of the runs that lead from there to `source`, in order."""

    model_config = ConfigDict(extra="allow")

    version: int = 1
    kind: Literal["pruned", "repaired", "dense"]
    source: str
    recipe: dict[str, Any] = Field(default_factory=dict)
    besides: dict[str, Any] = Field(default_factory=dict)
    base: str = ""
    parents: list[dict[str, Any]] = Field(default_factory=list)
    seed: int = 0
    calibration: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    plan: dict[str, str] = Field(default_factory=dict)
    layers: list[LayerReport] = Field(default_factory=list)
    towers: dict[str, float] = Field(default_factory=dict)
    prunable: dict[str, float] = Field(default_factory=dict)
    outside: list[str] = Field(default_factory=list)
    seconds: float = 0.0
    spent: dict[str, float] = Field(default_factory=dict)
    computed_in: str = ""

    def told(self, output: str) -> list[dict[str, Any]]:
        """The recipes that lead from the base to this very result at `output`, in order, as plain values."""
        if not self.recipe:  # made from Python
            return list(self.parents)
        rest = {key: value for key, value in self.recipe.items() if key not in ("command", "model", PARENT)}
        own = {"command": self.recipe.get("command"), "model": self.recipe.get("model"), "output": output}
        return [*self.parents, {**own, **rest, **self.besides}]


def descent(model: str) -> dict[str, Any]:
    """`base` and `parents` of what a run makes of `model`, a name or folder that is there."""
    if not (Path(model) / MANIFEST).is_file():
        return {"base": lasting_name(model), "parents": []}
    manifest = read_manifest(model)
    return {"base": manifest.base or manifest.source, "parents": manifest.told(model)}


def write_manifest(folder: Path, manifest: Manifest, masks: Mapping[str, "Tensor"]) -> None:
    """Write both files. masks: layer name → bool (out, in), True = kept."""
    write_masks(folder, masks)
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))


def write_masks(folder: Path, masks: Mapping[str, "Tensor"]) -> None:
    """Write the masks, one bit a weight. masks: layer name → bool (out, in), True = kept."""
    from safetensors.torch import save_file  # PyTorch is not imported to read a manifest

    from ressa.sparsity import as_packed

    at_rest = as_packed(masks)
    packed = {name: at_rest.packed(name) for name in at_rest}
    # In one entry, as safetensors writes several in an order that differs from run to run.
    widths = {name: at_rest.width(name) for name in at_rest}
    save_file(packed, folder / MASKS, metadata={"widths": json.dumps(widths)})


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of a result folder. Raises UsageError if there is none, or none that can be read."""
    path = Path(folder) / MANIFEST
    if not path.is_file():  # nor a pipe, which would be waited for
        raise UsageError(f"{folder} has no {MANIFEST}: give a folder that ressa pruned or repaired.")
    try:
        return Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no manifest that this version of ressa reads: make it anew.") from error


def read_masks(folder: str | Path) -> "PackedMasks":
    """Layer name → bool (out, in), True = kept; of packed weights their own positions, in the manifest's order.

    Raises UsageError if none are there, or none can be read.
    """
    from ressa.checkpoint.stored import StoredTensors
    from ressa.runtime.packing import mask_bytes
    from ressa.sparsity import PackedMasks

    path, masks = Path(folder) / MASKS, PackedMasks()
    if is_packed(folder):
        stored = StoredTensors(folder)
        for report in read_manifest(folder).layers:
            if report.tensor in stored.packed:
                packed = stored.packed_weight(report.tensor)
                masks.add(report.name, mask_bytes(packed.positions, packed.form), packed.shape[1])
    if not path.is_file():
        if masks:
            return masks
        raise UsageError(f"{folder} has no {MASKS}: give a folder that ressa pruned or repaired.")
    try:
        with safe_open(path, "pt") as file:
            widths = json.loads(file.metadata()["widths"])
            for name, width in widths.items():
                packed = file.get_tensor(name)
                if packed.ndim != 2 or packed.element_size() != 1 or packed.shape[1] != -(-width // 8):
                    raise ValueError(name)
                masks.add(name, packed, width)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} holds no masks that this version of ressa reads: make it anew.") from error
    return masks
