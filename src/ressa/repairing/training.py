"""One training run of a repair: its data, arguments, progress and checkpoints."""

import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from torch.utils.data import Dataset
from transformers import (
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from ressa import progress
from ressa.anatomy import Anatomy
from ressa.data.crops import cropped
from ressa.data.sample import Sample
from ressa.device import find_device
from ressa.errors import UsageError
from ressa.fast_dtype import means_bf16
from ressa.files import read_json, write_json
from ressa.processes import is_first
from ressa.repairing.cached import CachedLogits
from ressa.repairing.checkpoints import STEPS, last_checkpoint
from ressa.repairing.compiling import compiled_blocks
from ressa.repairing.config import RepairConfig
from ressa.repairing.forward import eager_attention, lean_forward, walked_once
from ressa.repairing.objective import Objective
from ressa.repairing.schedule import EpochCosine
from ressa.repairing.sharded import choose_shards, gather_trained, make_twin
from ressa.repairing.teacher import SeparateTeacher, SharedTeacher
from ressa.repairing.trackers import reporting
from ressa.repairing.trainer import RepairTrainer
from ressa.repairing.weights import restored

SHARED, LEAST_SHARED = Path("/dev/shm"), 4 << 30  # where loaders leave batches; bytes that must be free there
MOST_LOADERS = 4
TIMED, LEAST_TIMED = 32, 4  # steps, at most and at least, where minutes say how many there are
TIMED_SHARE = 0.1  # of the minutes, after which they are enough


class Samples(Dataset):
    """Some of the samples, all if none are named, with their numbers, as the Trainer wants them.

    crops: a seed for their pictures to be cut and mirrored by.
    """

    def __init__(
        self, samples: Sequence[Sample], numbers: Sequence[int] | None = None, *, crops: int | None = None
    ) -> None:
        self.samples = samples
        self.crops = crops
        self.numbers = range(len(samples)) if numbers is None else numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> tuple[int, Sample]:
        number = self.numbers[index]
        sample = self.samples[number]
        return number, sample if self.crops is None else cropped(sample, self.crops, number)


class Collator:
    """Numbered samples to a batch of an objective, with the `sample_numbers` (batch,) where it wants them."""

    def __init__(self, objective: Objective) -> None:
        self.batcher = objective.batcher
        self.numbered = objective.numbered

    def __call__(self, items: Sequence[tuple[int, Sample]]) -> dict[str, Any]:
        batch = self.batcher.training([sample for _, sample in items])
        if self.numbered:
            batch["sample_numbers"] = torch.tensor([number for number, _ in items])
        return batch


def train(
    student: nn.Module,
    teacher: nn.Module | CachedLogits | None,
    anatomy: Anatomy,
    samples: Samples,
    objective: Objective,
    config: RepairConfig,
    *,
    work_dir: Path | None = None,
) -> list[dict[str, float]]:
    """Train the student's trainable parameters and return the loss curve, one entry a step.

    Where the config has `minutes`, some steps are taken first for their time, and forgotten.

    teacher: the student itself (masks bypassed), a dense model, its logits on disk (by the samples' numbers), or None.
    work_dir: where progress is saved; a run that was cut short there goes on.
    """
    run = partial(_train, student, teacher, anatomy, samples, objective)
    if config.minutes is not None:
        steps = _steps_within(run, student, config, work_dir)
        config = config.model_copy(update={"steps": steps, "minutes": None})
    return run(config, work_dir)


def _steps_within(
    run: Callable[..., object], student: nn.Module, config: RepairConfig, work_dir: Path | None
) -> int:
    """How many steps of a run (`_train`) this machine takes in the config's minutes; a run that goes on keeps the
    number."""
    assert config.minutes is not None
    note = None if work_dir is None else work_dir / STEPS
    known = None if note is None else read_json(note)
    if isinstance(known, dict) and isinstance(known.get("steps"), int) and known["steps"] > 0:
        return known["steps"]
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    before = [parameter.detach().clone() for parameter in trained]
    few = {"minutes": None, "steps": TIMED, "epochs": 1.0, "checkpoints": 0, "report_to": ()}
    clock = Clock(TIMED_SHARE * 60 * config.minutes)
    try:
        run(config.model_copy(update=few), None, clock, "Timing")
    finally:
        with torch.no_grad():
            for parameter, value in zip(trained, before, strict=True):
                parameter.copy_(value)
    set_seed(config.seed)
    steps = max(1, int(60 * config.minutes / clock.seconds))
    progress.say(f"A step takes {clock.seconds:.3f} s: {steps:,} in {config.minutes:g} minutes.")
    if note is not None:
        write_json(note, {"steps": steps, "seconds": clock.seconds})
    return steps


def _train(
    student: nn.Module,
    teacher: nn.Module | CachedLogits | None,
    anatomy: Anatomy,
    samples: Samples,
    objective: Objective,
    config: RepairConfig,
    work_dir: Path | None,
    clock: "Clock | None" = None,
    what: str = "Repairing",
) -> list[dict[str, float]]:
    with ExitStack() as stack:
        stack.enter_context(reporting(config))
        folder = work_dir or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        checkpoint = last_checkpoint(work_dir) if work_dir else None
        arguments = training_arguments(config, folder, samples=len(samples), resumable=work_dir is not None)
        bf16 = means_bf16(config.precision, training_device(config), student)
        dense = teacher if isinstance(teacher, nn.Module) else None
        trainer = RepairTrainer(
            student,  # type: ignore[arg-type]
            arguments,
            data_collator=Collator(objective),
            train_dataset=samples,
            objective=objective,
            bf16=bf16,
            learning_rates=_learning_rates(student, anatomy, config),
            schedule=_schedule(config, len(samples), arguments),
        )
        if trainer.is_deepspeed_enabled:
            raise UsageError("DeepSpeed cannot train a repair: use torchrun alone, or an FSDP2 config.")
        if trainer.is_fsdp_enabled:
            choose_shards(trainer.accelerator.state.fsdp_plugin, student, anatomy)
            if checkpoint is not None:
                trainer._load_from_checkpoint(str(checkpoint))
            trainer.model = trainer.model_wrapped = make_twin(student)
        network = trainer.network
        if dense is student:
            trainer.teacher = SharedTeacher(network)
        elif dense is not None:
            stack.enter_context(restored(dense))
            stack.enter_context(lean_forward(dense))
            trainer.teacher = SeparateTeacher(dense)
        if arguments.use_cpu and (bf16 or next(student.parameters()).dtype is torch.bfloat16):
            for each in {network, network if dense is None or dense is student else dense}:
                stack.enter_context(eager_attention(each))
        if config.gradient_checkpointing:
            stack.enter_context(activation_checkpointing(network))
        if config.compile:
            both = (network,) if dense is None or dense is student else (network, dense)
            stack.enter_context(compiled_blocks(both, [block.name for block in anatomy.blocks()]))
        if not trainer.is_fsdp_enabled:  # which replaces the parameters when training begins
            stack.enter_context(walked_once(network))
        trainer.remove_callback(PrinterCallback)
        if clock is not None:
            trainer.add_callback(clock)
        if is_first():
            bar = stack.enter_context(progress.bar(what, arguments.max_steps))
            trainer.add_callback(Progress(bar, what))
            if checkpoint is not None:
                step = checkpoint.name.rpartition("-")[2]
                progress.say(
                    f"An earlier run trained {step} of {arguments.max_steps} steps: going on from there."
                )
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if network is not student:
            gather_trained(student, network)
        # In one order: that of a run which goes on is the checkpoint's.
        return [dict(sorted(entry.items())) for entry in trainer.state.log_history if "loss" in entry]


def training_arguments(
    config: RepairConfig, folder: Path, *, samples: int, resumable: bool
) -> TrainingArguments:
    """The Trainer's arguments for a repair with so many samples, in this process or under torchrun."""
    on_cpu = training_device(config).type == "cpu"
    workers = loaders(on_cpu) if config.workers is None else config.workers
    arguments = TrainingArguments(
        output_dir=str(folder),
        use_cpu=on_cpu,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": config.last_share},
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        data_seed=config.seed,
        dataloader_num_workers=workers,
        dataloader_persistent_workers=workers > 0,
        dataloader_pin_memory=not on_cpu,
        remove_unused_columns=False,
        label_names=["labels"],
        save_strategy="steps" if resumable and config.checkpoints else "no",
        save_total_limit=2,
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to=list(config.report_to) or "none",
        run_name=config.run_name,
        # Masks are buffers and never change, so there is nothing to broadcast at every step.
        ddp_broadcast_buffers=False,
        # A tower may have layers that no loss reaches (the last vision block of LLaVA).
        ddp_find_unused_parameters=True,
    )
    # Several GPUs in one process would mean nn.DataParallel, which copies the network at every step; run one
    # process a GPU (torchrun) instead.
    arguments._n_gpu = min(1, arguments.n_gpu)
    steps = number_of_steps(config, samples, arguments.world_size)
    arguments.max_steps = steps
    arguments.save_steps = -(-steps // max(1, config.checkpoints))
    return arguments


def training_device(config: RepairConfig) -> torch.device:
    """Where a repair computes. Raises UsageError for a device that is not there or that the Trainer passes by."""
    device = find_device(config.device)
    if device.index:
        raise UsageError(
            f"Training runs on the first visible GPU: set CUDA_VISIBLE_DEVICES={device.index} instead."
        )
    return torch.device(device.type)  # of several processes each has its own GPU


def loaders(on_cpu: bool) -> int:
    """How many processes encode samples while others are trained on, where nobody says: none where a process cannot
    simply be forked, for a caller's script would run once more in each."""
    if on_cpu or multiprocessing.get_start_method() != "fork":
        return 0
    if not SHARED.is_dir() or shutil.disk_usage(SHARED).free < LEAST_SHARED:
        return 0
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(0, min(MOST_LOADERS, len(os.sched_getaffinity(0)) // processes - 1))


def number_of_steps(config: RepairConfig, samples: int, processes: int) -> int:
    """Optimiser steps of the run: `steps`, or `epochs` over the samples."""
    if config.steps is not None:
        return config.steps
    return max(1, round(config.epochs * steps_per_epoch(config, samples, processes)))


def steps_per_epoch(config: RepairConfig, samples: int, processes: int) -> int:
    """Optimiser steps that see every sample once."""
    batches = -(-samples // (config.batch_size * processes))
    return -(-batches // config.gradient_accumulation)


def _schedule(config: RepairConfig, samples: int, arguments: TrainingArguments) -> EpochCosine | None:
    """LAVIS's schedule of the run, None for the Trainer's own cosine."""
    if config.schedule == "cosine":
        return None
    epoch = steps_per_epoch(config, samples, arguments.world_size)
    epochs = -(-arguments.max_steps // epoch)
    return EpochCosine(config.first_share, config.last_share, config.warmup_steps, epochs, epoch)


def _learning_rates(student: nn.Module, anatomy: Anatomy, config: RepairConfig) -> dict[str, float]:
    """Trainable parameter → learning rate, of the towers that have their own."""
    rates = {layer: rate for tower, rate in config.learning_rates.items() for layer in anatomy.linears(tower)}
    found = {}
    for name, parameter in student.named_parameters():
        layer = name.removeprefix("base_model.model.").split(".lora_")[0].removesuffix(".weight")
        if parameter.requires_grad and layer in rates:
            found[name] = rates[layer]
    return found


@contextmanager
def activation_checkpointing(student: nn.Module) -> Iterator[None]:
    """Within this context each block's activations are computed again in the backward pass, not kept."""
    model: Any = student.get_base_model() if isinstance(student, PeftModel) else student
    switch = (
        "activation_checkpointing"
        if hasattr(model, "activation_checkpointing_enable")
        else "gradient_checkpointing"
    )
    getattr(model, f"{switch}_enable")({"use_reentrant": False})
    try:
        yield
    finally:
        getattr(model, f"{switch}_disable")()


class Clock(TrainerCallback):
    """Times steps. Each ends with its loss on the host, so that nothing of it is under way any more."""

    def __init__(self, enough: float) -> None:
        """enough: seconds after which no more steps are needed, few as they are."""
        self.enough = enough
        self.ends: list[float] = []

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if torch.cuda.is_available() and not args.use_cpu:
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())
        control.should_training_stop |= (
            len(self.ends) > LEAST_TIMED and self.ends[-1] - self.ends[0] > self.enough
        )

    @property
    def seconds(self) -> float:
        """Of a step: the median of the last half, as the first ones compile and search, and a late one may."""
        late = self.ends[len(self.ends) // 2 - 1 :]
        return median(end - begin for begin, end in pairwise(late))


class Progress(TrainerCallback):
    """Advances a progress bar with the steps and shows the current loss."""

    def __init__(self, bar: progress.Bar, description: str) -> None:
        self.bar = bar
        self.description = description

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.bar.advance(state.global_step)  # of a run that goes on

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        loss = next((entry["loss"] for entry in reversed(state.log_history) if "loss" in entry), None)
        shown = "" if loss is None else f", loss {loss:.3f}"
        self.bar.advance(description=f"{self.description}{shown}")
