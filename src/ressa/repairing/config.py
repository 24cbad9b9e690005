"""What decides a repair."""

import importlib.util
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Positive = Annotated[int, Field(gt=0, lt=2**31)]
Count = Annotated[int, Field(ge=0, lt=2**31)]
Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False)]
From0 = Annotated[float, Field(ge=0, allow_inf_nan=False)]
ASIDE = {"device", "workers", "checkpoints", "report_to", "run_name", "log_dir"}
"""What of a config decides no result."""
MOST_EPOCHS = 10_000
MOST_MINUTES = 100_000
Tower = Literal["vision", "connector", "language"]
Method = Literal["sparse_lora", "lora", "lora_remask", "masked_finetune", "reconstruct"]
Tracker = Literal["wandb", "tensorboard", "mlflow", "trackio"]


class RepairConfig(BaseModel):
    """How to repair a pruned model. Method, ranks, α, λ, T and the peak of the learning rate are by default what
    RESSA's scripts say (arXiv 2404.02424); all that the paper does is `--preset paper` (docs/paper.md).

    Methods:
        sparse_lora: W⊙M + (α/r)(BA)⊙M, the mask applied in training.
        lora: ordinary LoRA on the pruned weights; merging turns them dense (the paper's ablation).
        lora_remask: as lora, masked again after merging.
        masked_finetune: every kept weight of the tuned layers is trained.
        reconstruct: block by block, the kept weights learn the dense block's outputs; no labels, no training
            of the whole. As `warm_start` it comes before any other method.
    Objectives: task (cross-entropy; of a dual encoder, its contrastive loss), kd (the teacher's logits; of a dual
    encoder, its similarities), both ((1−λ)·task + λ·KL).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Method = "sparse_lora"
    tune: tuple[Tower, ...] = ("vision", "connector", "language")
    ranks: dict[Tower, Count] = {"vision": 4, "connector": 2, "language": 8}
    alpha: Above0 = 16.0

    objective: Literal["task", "kd", "both"] = "both"
    kd_weight: Annotated[float, Field(ge=0, le=1)] = 0.1  # λ
    temperature: Above0 = 1.0
    # The paper's code: all positions, summed and divided by the batch, not scaled (see LogitDistillation).
    kd_positions: Literal["supervised", "all"] = "supervised"
    kd_reduction: Literal["tokens", "batch"] = "tokens"
    kd_scaled: bool = True  # by T²
    hidden_weight: From0 = 0.0  # adds hidden-state distillation over the language tower's blocks
    embedding_weight: From0 = 1.0  # of a dual encoder's embeddings, where there is a teacher
    teacher: Literal["auto", "shared", "separate"] = "auto"

    warm_start: bool = False
    reconstruct_samples: Positive = 1024  # the first of the samples
    reconstruct_tokens: Positive = (
        2**18
    )  # fewer samples where they have more: 128 of 2,048, as others calibrate on
    reconstruct_epochs: Annotated[int, Field(gt=0, le=MOST_EPOCHS)] = 10  # passes of each block over them
    # The share of batches that a block does not learn from; it keeps its weights of the epoch that was best on these,
    # or, where there are none, of the last one.
    reconstruct_held_out: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    # Whatever the number of processes, each of which does all of it. None: `reconstruction.batch_size`.
    reconstruct_batch_size: Positive | None = None
    reconstruct_rate: Above0 | None = None  # None: each layer's own, by its width and weights

    learning_rate: Above0 = 1e-4
    learning_rates: dict[Tower, Above0] = {}  # of single towers
    crops: bool = (
        False  # pictures cut to half of their area or more, and half of them mirrored, for training only
    )
    schedule: Literal["cosine", "epoch_cosine"] = (
        "cosine"  # over the run's steps; or as LAVIS, see EpochCosine
    )
    min_learning_rate: From0 = 1e-5  # at the cosine's end, if lower; a tower's own rate ends in proportion
    warmup_steps: Count = 0
    warmup_learning_rate: From0 = 0.0  # at the first step of the warm-up, with epoch_cosine
    weight_decay: From0 = 0.0
    max_grad_norm: From0 = 1.0  # 0: no clipping
    epochs: Annotated[float, Field(gt=0, le=MOST_EPOCHS)] = 1.0
    steps: Positive | None = None  # when given, decides instead of epochs
    # Or as many steps as this machine trains in so many minutes, which a few steps tell first. How many they were is in
    # the result, and gives the same again.
    minutes: Annotated[float, Field(gt=0, le=MOST_MINUTES)] | None = None
    batch_size: Positive = 16  # of one process and one forward pass
    gradient_accumulation: Positive = 1

    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: autocast to bf16 where that is fast
    gradient_checkpointing: bool = False
    compile: bool = False  # the blocks, by torch: a minute at first, then a GPU needs less for each step
    # Processes that load and encode the samples. None: on a GPU up to 4, as far as the machine has cores and shared
    # memory for them; on a CPU none.
    workers: Count | None = None
    checkpoints: Count = 20  # how many times progress is saved when there is a work folder
    held_back: Count = 64  # samples that are not trained on but looked at before and after; at most a tenth
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    device: str = "auto"

    # Whom the Trainer tells how training goes; nothing of the result hangs on them.
    report_to: tuple[Tracker, ...] = ()
    run_name: str | None = None  # what they call it
    log_dir: Path = Path("logs")  # where TensorBoard's files go, unless TENSORBOARD_LOGGING_DIR says

    @field_validator("report_to")
    @classmethod
    def _check_trackers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if importlib.util.find_spec(name) is None:
                raise ValueError(
                    f"there is no {name} here: `pip install {name}`, or leave it out of report_to"
                )
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.tune:
            raise ValueError("no tower to tune: name at least one of vision, connector, language")
        if self.steps is not None and self.minutes is not None:
            raise ValueError("both steps and minutes say when training ends: give one of them")
        if self.minutes is not None and self.method == "reconstruct":
            raise ValueError("reconstruct trains nothing but blocks, which have epochs: leave out minutes")
        if self.warmup_learning_rate and self.schedule != "epoch_cosine":
            raise ValueError("only the schedule epoch_cosine warms up from a rate above 0: leave it out")
        untuned = [tower for tower in self.tune if not self.rank(tower)]
        if untuned and self.method in ("sparse_lora", "lora", "lora_remask"):
            raise ValueError(f"tower {untuned[0]} is tuned but has no rank: give it one in ranks")
        return self

    def rank(self, tower: str) -> int:
        """The LoRA rank of a tower's layers."""
        return {str(name): rank for name, rank in self.ranks.items()}.get(tower, 0)

    @property
    def last_share(self) -> float:
        """The learning rate at the end of its cosine, as a share of that at the start."""
        return min(1.0, self.min_learning_rate / self.learning_rate)

    @property
    def first_share(self) -> float:
        """The learning rate at the first step of the warm-up, as a share of the peak."""
        return min(1.0, self.warmup_learning_rate / self.learning_rate)

    @property
    def task_weight(self) -> float:
        return {"task": 1.0, "kd": 0.0, "both": 1.0 - self.kd_weight}[self.objective]

    @property
    def logit_weight(self) -> float:
        return {"task": 0.0, "kd": 1.0, "both": self.kd_weight}[self.objective]

    @property
    def keeps_zeros(self) -> bool:
        """Whether the repaired model has the pruned one's zeros; merged LoRA fills them."""
        return self.method != "lora"

    @property
    def reconstructs(self) -> bool:
        return self.warm_start or self.method == "reconstruct"

    @property
    def needs_teacher(self) -> bool:
        return self.logit_weight > 0 or self.hidden_weight > 0 or self.reconstructs
