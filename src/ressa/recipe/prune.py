"""What `ressa prune` is told."""

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from ressa.embedded import EMBEDDED
from ressa.recipe.fields import (
    DENSE,
    BatchSize,
    CalibrationSplit,
    Dtype,
    InputPath,
    Method,
    MethodOptions,
    Mixture,
    Model,
    OutputFolder,
    Packed,
    PatternOrDense,
    PositiveFloat,
    Samples,
    Share,
    one_spelling,
)
from ressa.recipe.presets import PresetRecipe
from ressa.recipe.sources import Calibration
from ressa.recipe.text import OWN, Text, TextSamples, TextTokens


class PruneRecipe(PresetRecipe):
    """Make a model sparse. A pattern is N:M such as 2:4, or a share of zeros such as 0.5 or 50%."""

    command: Literal["prune"] = "prune"
    model: Model
    output: OutputFolder
    """The folder to write."""
    method: Method = "sparsegpt"
    pattern: PatternOrDense = "2:4"
    """N:M, or the share of zeros."""
    vision: PatternOrDense | None = None
    """The vision tower's own pattern, or `dense`."""
    connector: PatternOrDense | None = DENSE
    """The connector's own pattern, or `dense`."""
    language: PatternOrDense | None = None
    """The language tower's own pattern, or `dense`."""
    allocation: Literal["uniform", "ecoflap-first", "ecoflap-zeroth", "owl", "auto"] = "uniform"
    """How sparsity is spread over layers: uniform, ecoflap-first, ecoflap-zeroth, owl or auto."""
    budget: Literal["joint", "tower"] = "joint"
    """joint: the towers that are pruned share one budget; tower: each keeps its own."""
    unit: Literal["parameters", "multiply-adds"] = "parameters"
    """With auto: what the budget counts, parameters or the multiply-adds of the calibration samples."""
    choices: str | None = None
    """With auto: the patterns to choose from beside dense, such as 6:8,4:8,2:4."""
    plan: InputPath | None = None
    """A plan file, or a folder that ressa pruned, whose plan to carry out instead."""
    calibration: Calibration = EMBEDDED
    split: CalibrationSplit = "auto"
    mixture: Mixture = "mix"
    samples: Samples = 128
    text: Text = None
    text_samples: TextSamples = 128
    text_tokens: TextTokens = 256
    batch_size: Literal["auto"] | BatchSize = "auto"
    """How many samples run at a time; auto: by their length, what keeps the device busy."""
    dtype: Dtype = "auto"
    packed: Packed = False
    scope: Literal["layer", "global"] = "layer"
    """global: one threshold over the magnitudes of all layers."""
    tokens: Literal["all", "atv"] = "all"
    """atv: count of the image tokens only those that a block changes most."""
    alpha: PositiveFloat = 1.0
    """The α of atv: more image tokens the higher it is."""
    crops: bool = False
    """Cut the calibration samples' pictures to half of their area or more, and mirror half of them."""
    statistics_of: Literal["pruned", "dense"] = "pruned"
    """pruned: a layer is calibrated on what the layers pruned before it give; dense: on the dense model's inputs."""
    margin: Share | None = None
    """With ecoflap: no block gets a sparsity more than this above the whole's; 0.1 by default."""
    block_scores: Literal["paper", "code"] | None = None
    """With ecoflap: blocks are scored as the paper writes, or as its official code computes; paper by default."""
    keep_zeros: bool = False
    """Weights that are zero already stay zero, beside those that the pattern asks for."""
    stream: bool | None = None
    """Leave the weights on disk but for a block at a time, or never; by default where the model does not fit."""
    options: MethodOptions = Field(default_factory=dict)

    @field_validator("unit")
    @classmethod
    def _check_unit(cls, value: str, info: ValidationInfo) -> str:
        if value != "parameters" and info.data.get("allocation") != "auto":
            raise ValueError(f"only the allocation auto counts {value}: leave the unit out")
        return value

    @field_validator("choices")
    @classmethod
    def _check_choices(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        if info.data.get("allocation") != "auto":
            raise ValueError("only the allocation auto chooses among patterns: leave the choices out")
        return ",".join(one_spelling(part, info) for part in value.split(","))

    @model_validator(mode="after")
    def _one_allocation(self) -> "PruneRecipe":
        if self.allocation != "uniform" and self.choices is None:
            exact = [text for text in self.towers().values() if ":" in text]
            if exact:
                raise ValueError(
                    f"the allocation {self.allocation} gives each layer its own share of zeros, and {exact[0]} is "
                    "a fixed pattern: give a share such as 0.5, or let auto choose among patterns (choices)"
                )
        if self.plan is not None and (self.allocation != "uniform" or self.scope == "global"):
            raise ValueError(
                "a plan says already what each layer gets: leave out the allocation and the scope"
            )
        if self.allocation != "uniform" and self.scope == "global":
            raise ValueError(
                f"the allocation {self.allocation} and one threshold over all layers both say how sparsity is "
                "spread: leave out the allocation or the scope"
            )
        return self

    @model_validator(mode="after")
    def _margin_of_ecoflap(self) -> "PruneRecipe":
        for name in ("margin", "block_scores"):
            if getattr(self, name) is not None and not self.allocation.startswith("ecoflap"):
                raise ValueError(
                    f"only ECoFLaP has {name}: leave that out, or choose the allocation ecoflap-zeroth"
                )
        return self

    @model_validator(mode="after")
    def _streamable(self) -> "PruneRecipe":
        if self.stream and self.statistics_of == "dense":
            raise ValueError(
                "statistics of the dense model are taken from all of it, and streaming has a block at a time: leave "
                "out one of them"
            )
        if self.stream and (self.allocation != "uniform" or self.scope == "global"):
            what = "one threshold over all layers" if self.scope == "global" else self.allocation
            raise ValueError(
                f"{what} looks at the whole model before it is pruned, and streaming at a block at a time: leave out "
                "one of them, or measure a plan elsewhere and give it with plan"
            )
        return self

    @model_validator(mode="after")
    def _text_to_write(self) -> "PruneRecipe":
        if self.stream and self.text == OWN:
            raise ValueError(
                "a model whose weights stay on disk would write text for hours: name a text file, or leave out stream"
            )
        return self

    @model_validator(mode="after")
    def _something_to_prune(self) -> "PruneRecipe":
        if set(self.towers().values()) == {DENSE}:
            raise ValueError("every tower is dense, so nothing would be pruned: give one a pattern")
        return self

    def towers(self) -> dict[str, str]:
        """Tower → pattern or `dense`."""
        own = {"vision": self.vision, "connector": self.connector, "language": self.language}
        return {tower: self.pattern if pattern is None else pattern for tower, pattern in own.items()}
