"""What `ressa repair` is told."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from ressa.embedded import EMBEDDED
from ressa.errors import UsageError
from ressa.recipe.base import sentence
from ressa.recipe.fields import (
    Dtype,
    Epochs,
    Mixture,
    ModelName,
    Names,
    Natural,
    OutputFolder,
    Packed,
    Positive,
    PositiveFloat,
    Samples,
    SamplesSplit,
    Share,
)
from ressa.recipe.presets import PresetRecipe
from ressa.recipe.sources import Training
from ressa.recipe.text import OWN, Text, TextSamples, TextTokens
from ressa.repairing.config import ASIDE, RepairConfig


class RepairRecipe(PresetRecipe):
    """Reconstruct a pruned model's blocks, train SparseLoRA with the dense model as teacher, and merge it.

    Ranks, α, λ, T and the peak of the learning rate are by default the paper's; the rest is ours, and `warm_start`, the
    reconstruction of blocks, wins on both embedded models. The paper's whole repair is `preset: paper`.
    """

    command: Literal["repair"] = "repair"
    model: ModelName
    """A folder that `ressa prune` made."""
    dense: ModelName | None = None
    """The model it was pruned from; by default the one that the folder names."""
    output: OutputFolder
    """The folder to write."""
    data: Training = EMBEDDED
    split: SamplesSplit = "auto"
    mixture: Mixture = "mix"
    samples: Samples = 25_000
    text: Text = None
    text_samples: TextSamples = 1024
    text_tokens: TextTokens = 256
    text_share: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """The texts' share of what is trained on; they are repeated as often as that takes."""
    epochs: Epochs = 1.0
    """How often each is seen."""
    batch_size: Positive = 16
    """How many make a step."""
    learning_rate: PositiveFloat = 1e-4
    """AdamW's, at the start of its cosine."""
    rank_vision: Natural = 4
    """LoRA's rank in the vision tower; 0 leaves it as it is."""
    rank_connector: Natural = 2
    """LoRA's rank in the connector; 0 leaves it as it is."""
    rank_language: Natural = 8
    """LoRA's rank in the language tower; 0 leaves it as it is."""
    alpha: PositiveFloat = 16.0
    """LoRA's scale is alpha / rank."""
    kd_weight: Share = 0.1
    """The weight of the KL to the dense model; the rest is the task's."""
    temperature: PositiveFloat = 1.0
    """The KL's temperature."""
    warm_start: bool = True
    """Let each block learn the dense block's outputs first, without labels; a second model is then in memory."""
    dtype: Dtype = "auto"
    packed: Packed = False
    report_to: Names = ()
    """Who is told how training goes, separated by commas: wandb, tensorboard, mlflow or trackio."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Any other option of ressa.repairing.RepairConfig."""

    @model_validator(mode="after")
    def _check_options(self) -> "RepairRecipe":
        if self.text == OWN and not self.config().needs_teacher:
            raise UsageError("Its own text is the dense model's, and this repair has none: name a text file.")
        if not self.config().keeps_zeros and self.packed:
            raise UsageError("A repair that fills the zeros leaves nothing to pack: leave out 'packed'.")
        return self

    def identity(self) -> dict[str, Any]:
        """What decides the result; how it is made, saved and told meanwhile does not."""
        found = {key: value for key, value in super().identity().items() if key != "report_to"}
        return found | {
            "options": {key: value for key, value in found["options"].items() if key not in ASIDE}
        }

    def besides(self) -> dict[str, Any]:
        whole = {"options": self.model_dump(mode="json")["options"]} if ASIDE & self.options.keys() else {}
        return super().besides() | whole

    def config(self) -> RepairConfig:
        """What the trainer is told. Raises UsageError for an option it does not have."""
        ranks = {tower: getattr(self, f"rank_{tower}") for tower in ("vision", "connector", "language")}
        values = {
            "ranks": ranks,
            "tune": tuple(tower for tower, rank in ranks.items() if rank),
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "alpha": self.alpha,
            "kd_weight": self.kd_weight,
            "temperature": self.temperature,
            "warm_start": self.warm_start,
            "seed": self.seed,
            "device": self.device,
            "report_to": self.report_to,
            "run_name": self.output.name,
            "log_dir": self.output.with_name(f"{self.output.name}-logs"),
        }
        twice = [name for name in self.options if name in values]
        if twice:
            raise UsageError(f"'{twice[0]}' is not one of the further options: it has a key of its own.")
        try:
            return RepairConfig.model_validate({**values, **self.options})
        except ValidationError as error:
            raise UsageError(sentence("repair", RepairConfig, error)) from None
